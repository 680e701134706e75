"""Block specs from and to the notations of other tools, by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from bwlab.blocks.lbw import ListFormat, Translation, from_list, to_list
from bwlab.blocks.naming import BlockScheme, nearest
from bwlab.blocks.set_adapters import from_set_adapters, to_set_adapters
from bwlab.blocks.spec import KINDS, Kind, parse_spec
from bwlab.errors import BwlabError

LISTS: tuple[ListFormat, ...] = get_args(ListFormat)
DICT = "diffusers"
TO_FORMS = (*LISTS, DICT)
FROM_FORMS = ("lbw", "kohya", DICT)


def translate_to(form: str, spec: str, scheme: BlockScheme, kind: str | None = None) -> Translation:
    """Return a spec in the notation ``form``, one of ``TO_FORMS``.

    Raises:
        BwlabError: a bad spec, one that the notation cannot say, or an unknown form or kind.
    """
    checked = _kind(form, kind, TO_FORMS)
    parsed = parse_spec(spec, scheme, kind=checked)
    for one in LISTS:
        if one == form:
            return to_list(parsed, one)
    return to_set_adapters(parsed)


def translate_from(form: str, text: str, scheme: BlockScheme, kind: str | None = None) -> Translation:
    """Return the spec that ``text`` means in the notation ``form``, one of ``FROM_FORMS``.

    Raises:
        BwlabError: the text does not fit the notation or this model, or an unknown form or kind.
    """
    checked = _kind(form, kind, FROM_FORMS)
    if form == DICT:
        return Translation(from_set_adapters(text, scheme).canonical())
    return Translation(from_list(text, scheme, "kohya" if form == "kohya" else "lbw", checked).canonical())


def _kind(form: str, kind: str | None, forms: Collection[str]) -> Kind:
    """What the numbers are: as asked, else ranks with kohya (its ``block_dims``) and scales elsewhere."""
    _known("the notation", form, forms)
    if kind is None:
        return "rank" if form == "kohya" else "scale"
    if form == DICT and kind != "scale":
        raise BwlabError(f"--kind {kind} with {DICT}", "set_adapters takes scales only", "Leave --kind out")
    _known("--kind", kind, KINDS)
    return next(one for one in KINDS if one == kind)


def _known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = nearest(name, known)
        hint = f"Did you mean {near}? " if near else ""
        raise BwlabError(f"{what} {name!r}", "it is unknown", f"{hint}Known: {', '.join(known)}")
