"""Block scales as a tag in prompts of the AUTOMATIC1111 and Forge web UIs: `<lora:fox:1:lbw=0,1,1,...>`.

A tag without `lbw=` is the web UI's own: one number, or one for the text encoder and one for the UNet. `lbw=` is
read by the extension LoRA Block Weight (sd-webui-lora-block-weight), which multiplies the numbers of its list, BASE for
the text encoder, with these.
"""

from __future__ import annotations

import re

from bwlab.blocks.notations.lists import Translation, from_list, has_flux_list, to_list
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec, number_text, parse_number, spec_from_values
from bwlab.errors import BwlabError

DEFAULT_NAME = "NAME"
TAG = re.compile(r"\s*<\s*(?:lora|lyco)\s*:(?P<name>[^:<>]+)(?P<rest>(?::[^:<>]*)*)>\s*")
UNFIT = re.compile(r"[:<>\n]")
PRESETS = {"ALL": 1.0, "NONE": 0.0}  # of LoRA Block Weight; its others can be changed by their user
TAG_FORM = "Give a tag such as <lora:fox:0.8> or <lora:fox:1:lbw=1,0,0,...>"


def a1111_tag(spec: BlockSpec, name: str = DEFAULT_NAME) -> Translation:
    """Return the tag that gives an adapter these scales; one number for all needs no extension.

    Raises:
        BwlabError: a cell of LBW would need two numbers, the model has none, or the name cannot stand in a tag.

    """
    if not name.strip() or UNFIT.search(name):
        raise BwlabError(f"--name {name!r}", "a tag's name has no colon, no < and no > in it", "Give the file's name")
    numbers = set(spec.values.values())
    if len(numbers) == 1:
        return Translation(f"<lora:{name}:{number_text(numbers.pop())}>")
    listed = to_list(spec, "lbw-full" if has_flux_list(spec.scheme) else "lbw")
    note = "lbw= is read where the extension LoRA Block Weight is installed; elsewhere the tag acts at 1 on all blocks"
    return Translation(f"<lora:{name}:1:lbw={listed.text}>", (*listed.notes, note))


def from_a1111_tag(text: str, scheme: BlockScheme) -> BlockSpec:
    """Return the scales that a tag means.

    Raises:
        BwlabError: it is no such tag, its list does not fit the model, or it says what a spec cannot.

    """
    match = TAG.fullmatch(text)
    if match is None:
        raise BwlabError(f"prompt tag {text!r}", "it is none of a LoRA", TAG_FORM)
    parts = [part.strip() for part in match["rest"].split(":")[1:]]
    plain = [part for part in parts if "=" not in part]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    strange = [*plain[2:], *(key for key in named if key not in ("lbw", "te", "unet"))]
    if strange:
        raise BwlabError(f"prompt tag {text!r}", f"a block spec cannot express {strange[0]!r}", TAG_FORM)
    encoder = parse_number(named.get("te", (plain or ["1"])[0]), "scale", text)
    # The web UI's own rule: the UNet follows the text encoder unless it has a number of its own.
    unet = parse_number(
        named["unet"] if "unet" in named else plain[1] if len(plain) > 1 else number_text(encoder), "scale", text
    )
    listed = _listed(named.get("lbw", "ALL"), scheme)
    values = {
        module.path: listed[module.path] * (encoder if module.block == "te" else unet) for module in scheme.modules
    }
    return spec_from_values(values, scheme, "scale")


def _listed(text: str, scheme: BlockScheme) -> dict[str, float]:
    if text.strip().upper() in PRESETS:
        return dict.fromkeys((module.path for module in scheme.modules), PRESETS[text.strip().upper()])
    return dict(from_list(text, scheme, "lbw", "scale").values)
