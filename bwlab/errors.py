"""Errors a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import takewhile

CUTOFF = 0.6  # difflib's own


class BwlabError(Exception):
    """A user's mistake or a bad input, described in three parts.

    The command line prints it as one line and exits 2, without a traceback.

    Args:
        asked: what the user asked for.
        found: what was found instead.
        fix: what to do about it.

    """

    def __init__(self, asked: str, found: str, fix: str) -> None:
        super().__init__(f"{asked}: {found}. {fix}")
        self.asked = asked
        self.found = found
        self.fix = fix


class BrokenFileError(BwlabError):
    """A file that was found and holds something that cannot be used; `asked` names the file."""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or the error's kind if it says nothing.

    >>> first_line(ValueError("bad header\\nin line 3")), first_line(ValueError(""))
    ('bad header', 'ValueError')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def nearest(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """Return the known name that is most like `name`, whatever its case, or None if none is near.

    Args:
        name: the name that is not known.
        known: the names that are.
        cutoff: how much alike two names must be, 0 (anything) to 1 (the same), by `difflib`'s ratio.

    >>> nearest("Uper", ["upper", "lower"])
    'upper'

    """
    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(candidate.casefold(), candidate)
    wanted = name.casefold()
    if wanted in folded:
        return folded[wanted]
    # Of names equally alike, the one with the longer common beginning: "sd15" is nearer to "sd14" than to "sd21".
    close = difflib.get_close_matches(wanted, folded, n=5, cutoff=cutoff)
    return folded[max(close, key=lambda candidate: _likeness(candidate, wanted))] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return how the fix of an error begins: a question that names the nearest, with a space behind it, or nothing.

    >>> did_you_mean("uper", ["upper", "lower"]) + "Known: upper, lower"
    'Did you mean upper? Known: upper, lower'
    >>> did_you_mean("zzz", ["upper", "lower"])
    ''
    """
    near = nearest(name, known)
    return f"Did you mean {near}? " if near else ""


def _likeness(one: str, other: str) -> tuple[float, int]:
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return difflib.SequenceMatcher(None, one, other).ratio(), common
