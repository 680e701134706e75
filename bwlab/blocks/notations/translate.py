"""Block specs from and to the notations of other tools, by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from bwlab.blocks.notations.lists import ListFormat, Translation, from_list, to_list
from bwlab.blocks.notations.prompt_tag import DEFAULT_NAME, a1111_tag, from_a1111_tag
from bwlab.blocks.notations.set_adapters import from_set_adapters, to_set_adapters
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import SPEC_KINDS, Kind, parse_spec
from bwlab.errors import BwlabError, did_you_mean

LISTS: tuple[ListFormat, ...] = get_args(ListFormat)
DICT = "diffusers"
TAG = "a1111"
TO_FORMS = (*LISTS, DICT, TAG)
FROM_FORMS = TO_FORMS
SCALES_ONLY = {DICT: "set_adapters takes scales only", TAG: "prompt tags hold scales only"}


def translate_to(
    form: str, spec: str, scheme: BlockScheme, kind: str | None = None, name: str = DEFAULT_NAME
) -> Translation:
    """Return a spec in the notation `form`, one of `TO_FORMS`; `name` is the adapter's in a prompt tag.

    Raises:
        BwlabError: a bad spec, one that the notation cannot say, or an unknown form or kind.

    """
    checked = _kind(form, kind, TO_FORMS)
    parsed = parse_spec(spec, scheme, kind=checked)
    for list_form in LISTS:
        if list_form == form:
            return to_list(parsed, list_form)
    return a1111_tag(parsed, name) if form == TAG else to_set_adapters(parsed)


def translate_from(form: str, text: str, scheme: BlockScheme, kind: str | None = None) -> Translation:
    """Return the spec that `text` means in the notation `form`, one of `FROM_FORMS`.

    Raises:
        BwlabError: the text does not fit the notation or this model, or an unknown form or kind.

    """
    checked = _kind(form, kind, FROM_FORMS)
    if form == DICT:
        return Translation(from_set_adapters(text, scheme).canonical())
    if form == TAG:
        return Translation(from_a1111_tag(text, scheme).canonical())
    return Translation(from_list(text, scheme, "kohya" if form == "kohya" else "lbw", checked).canonical())


def _kind(form: str, kind: str | None, forms: Collection[str]) -> Kind:
    """Return what the numbers are: as asked, else ranks with kohya (its `block_dims`) and scales elsewhere."""
    _known("the notation", form, forms)
    if kind is None:
        return "rank" if form == "kohya" else "scale"
    if form in SCALES_ONLY and kind != "scale":
        raise BwlabError(f"--kind {kind} with {form}", SCALES_ONLY[form], "Leave --kind out")
    _known("--kind", kind, SPEC_KINDS)
    return next(known for known in SPEC_KINDS if known == kind)


def _known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        fix = f"{did_you_mean(name, known)}Known: {', '.join(known)}"
        raise BwlabError(f"{what} {name!r}", "it is unknown", fix)
