"""Which adapters make which block: ``"upper=B, *=A"``, ``"mid=A+B, in0=none"``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_uppercase

from bwlab.blocks.naming import EVERYTHING, BlockScheme
from bwlab.errors import BwlabError

VALUE = re.compile(r"[A-Z](?:\+[A-Z])*|none")
FIX = 'Write block=letters with commas between, such as "upper=B, mid=A+B, *=A"; none leaves a block out'


def letters(count: int) -> str:
    """What the adapters are called, in order: `"AB"` for two; `BwlabError` for more than 26."""
    if count > len(ascii_uppercase):
        raise BwlabError(f"a choice among {count} adapters", "letters end at Z", "Merge some of them first")
    return ascii_uppercase[:count]


def chosen(text: str, scheme: BlockScheme, count: int) -> Mapping[str, frozenset[str]]:
    """Path of each module of the scheme -> letters of the adapters that make it.

    As in block specs, of two entries for one module the later wins, and `*` is what no other entry names; modules that
    are never named are made by all adapters.

    Args:
        text: the choice.
        scheme: names the blocks.
        count: of adapters, called A, B, ... in their order.

    Raises:
        BwlabError: an unknown block or letter, or another mistake in the text.
    """
    known = letters(count)
    everything = scheme.modules_of(EVERYTHING)
    makers = dict.fromkeys(everything, frozenset(known))
    entries = [_entry(entry.strip(), text, known) for entry in text.split(",")]
    # The sort is stable: it brings "*" to the front and leaves the order of the names.
    for name, made_by in sorted(entries, key=lambda entry: entry[0] != EVERYTHING):
        makers |= dict.fromkeys(scheme.modules_of(name), made_by)
    return makers


def _entry(entry: str, text: str, known: str) -> tuple[str, frozenset[str]]:
    name, _, value = (piece.strip() for piece in entry.partition("="))
    if not name or not VALUE.fullmatch(value):
        found = f"{entry!r} does not name adapters" if entry else "an entry is empty"
        raise BwlabError(f"--choose {text!r}", found, FIX)
    made_by = frozenset() if value == "none" else frozenset(value.split("+"))
    strange = sorted(made_by - set(known))
    if strange:
        raise BwlabError(f"--choose {text!r}", f"there is no adapter {strange[0]}", f"There are {', '.join(known)}")
    return name, made_by
