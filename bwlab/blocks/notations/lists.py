"""Block numbers in the notation of other tools, as plain lists: LBW strings and kohya's block lists.

LBW (sd-webui-lora-block-weight) and kohya's sd-scripts count the blocks of the original Stable Diffusion code: input
block 1 + 3 i + j and output block 3 i + j are pair j of level i, input block 3 + 3 i is a downsampler, and an
upsampler belongs to the last output block of its level.

For FLUX.1 there are two lists. The Inspire Pack of ComfyUI takes 58 numbers: BASE, for the text encoders and all layers
outside the blocks, then the 19 double and the 38 single blocks. LBW itself takes 61: CLIP, T5, IN, the blocks, OUT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bwlab.blocks.scheme import BlockScheme, short_names
from bwlab.blocks.spec import BlockSpec, Kind, number_text, parse_number, spec_from_values
from bwlab.blocks.transformers import LBW_FLUX
from bwlab.errors import BwlabError

ListFormat: TypeAlias = Literal["lbw", "lbw-short", "lbw-full", "kohya"]

_LDM26 = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
_LDM20 = ("BASE", *(f"IN{i:02}" for i in range(9)), "M00", *(f"OUT{i:02}" for i in range(9)))

# The short forms keep the cells that have transformers, which is all that a LoRA without convolutions holds.
_NO_TRANSFORMER_26 = {"IN00", "IN03", "IN06", "IN09", "IN10", "IN11", "OUT00", "OUT01", "OUT02"}
_NO_TRANSFORMER_20 = {"IN00", "IN01", "IN02", "IN03", "IN06", "OUT06", "OUT07", "OUT08"}

LBW_CELLS: Mapping[int, tuple[str, ...]] = {
    26: _LDM26,
    17: tuple(cell for cell in _LDM26 if cell not in _NO_TRANSFORMER_26),
    20: _LDM20,
    12: tuple(cell for cell in _LDM20 if cell not in _NO_TRANSFORMER_20),
}

# sd-scripts, networks/lora.py: get_block_index(), for SDXL "copied from sdxl_train".
KOHYA_SDXL_FIRST = ("time_embedding", "add_embedding")
KOHYA_SDXL_LAST = ("conv_norm_out", "conv_out")
INSPIRE_NOTE = (
    "the first number is BASE, then 19 double and 38 single blocks, as the Inspire Pack of ComfyUI counts them in "
    "files that adapt every block; LoRA Block Weight itself takes 61 numbers: --to lbw-full"
)


@dataclass(frozen=True)
class Translation:
    """A spec in another tool's notation.

    Attributes:
        text: what to paste there.
        notes: one line for each thing that the notation cannot express or the tool does not do.

    """

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slot:
    """One entry of a list: its name for messages, and the modules whose number it gives."""

    name: str
    paths: tuple[str, ...]


def list_slots(scheme: BlockScheme, form: ListFormat) -> tuple[Slot, ...]:
    """Return the entries of a list, in order; `BwlabError` if the tool has no list for such a model."""
    double = [block for block in scheme.blocks() if block.startswith(("double", "single"))]
    if double and form == "lbw":
        return _inspire_slots(scheme, double)
    if form == "lbw-full" and has_flux_list(scheme):
        return tuple(_cell_slot(scheme, cell) for cell in LBW_FLUX)
    full = next((cells for cells in (_LDM26, _LDM20) if set(cells) == set(scheme.ldm_cells())), None)
    if full is None:
        raise _no_list(scheme, form, bool(double))
    if form in ("lbw", "lbw-full"):
        return tuple(_cell_slot(scheme, cell) for cell in full)
    if form == "lbw-short":
        short = LBW_CELLS[17 if full is _LDM26 else 12]
        return tuple(_cell_slot(scheme, cell) for cell in short)
    return _kohya_sd(scheme) if full is _LDM26 else _kohya_sdxl(scheme)


def _inspire_slots(scheme: BlockScheme, blocks: Sequence[str]) -> tuple[Slot, ...]:
    """Return the entries of the Inspire Pack's list: everything outside the blocks is its first number."""
    # ComfyUI-Inspire-Pack, inspire/lora_block_weight.py: LoraLoaderBlockWeight.load_lbw()
    members: dict[str, list[str]] = {"BASE": [], **{block: [] for block in blocks}}
    for module in scheme.modules:
        members[module.block if module.block in members else "BASE"].append(module.path)
    return tuple(Slot(name, tuple(paths)) for name, paths in members.items())


def _no_list(scheme: BlockScheme, form: ListFormat, double: bool) -> BwlabError:
    found = f"{form} lists fit UNets with two layers per block only, unlike this model of the scheme {scheme.name}"
    fix = "Use lbw, whose first number is for all else" if double else "Use block specs, which name blocks"
    return BwlabError(f"a list of block numbers for {form}", found, fix)


def to_list(spec: BlockSpec, form: ListFormat) -> Translation:
    """Return the spec as a list of numbers with commas between, with notes on what the list cannot say.

    Raises:
        BwlabError: the modules of one entry have different numbers, or there is no such list for this model.

    """
    numbers = [_slot_number(slot, spec, form) for slot in list_slots(spec.scheme, form)]
    text = ",".join(number_text(number) for number in numbers)
    again = from_numbers(numbers, spec.scheme, form, spec.kind)
    lost = [m for m in spec.scheme.modules if again[m.path] != spec.values[m.path]]
    names = ", ".join(short_names(spec.scheme, lost))
    if not lost:
        return Translation(text, (INSPIRE_NOTE,) if form == "lbw" and has_flux_list(spec.scheme) else ())
    if form == "lbw-short":
        return Translation(
            text, (f"the short list turns off {names}: use it with LoRA files, which have nothing there",)
        )
    return Translation(text, (f"{form} lists have no entry for {names}",))


def from_list(text: str, scheme: BlockScheme, form: Literal["lbw", "kohya"], kind: Kind) -> BlockSpec:
    """Return the spec that a list of numbers means: an LBW string of any of its lengths, or kohya's list.

    For what the list has no entry: a short LBW string turns the other cells off, as LBW does; `te` keeps scale 1
    with kohya's list, which is about the UNet alone; the modules outside all blocks follow conv_in, or have rank 0.

    Raises:
        BwlabError: the list has another length than this model's, or an entry is no such number.

    """
    pieces = [piece.strip() for piece in text.split(",")]
    lengths = {len(list_slots(scheme, length)): length for length in _lengths(scheme, form)}
    if len(pieces) not in lengths:
        wanted = " or ".join(map(str, lengths))
        found = f"it has {len(pieces)} {'entry' if len(pieces) == 1 else 'entries'}, and this model's has {wanted}"
        raise BwlabError(f"{form} list {text!r}", found, "Give a list for a model of this architecture")
    exact = lengths[len(pieces)]
    slots = list_slots(scheme, exact)
    numbers = [parse_number(piece, kind, f"{slot.name}={piece}") for piece, slot in zip(pieces, slots, strict=True)]
    return spec_from_values(from_numbers(numbers, scheme, exact, kind), scheme, kind)


def _lengths(scheme: BlockScheme, form: Literal["lbw", "kohya"]) -> tuple[ListFormat, ...]:
    """Return the forms of a tool's lists for this model, which differ by their lengths."""
    if form == "kohya":
        return ("kohya",)
    if any(block.startswith("double") for block in scheme.blocks()):
        return ("lbw", "lbw-full") if has_flux_list(scheme) else ("lbw",)
    return ("lbw", "lbw-short")


def has_flux_list(scheme: BlockScheme) -> bool:
    """Return whether LBW's list of 61 numbers fits the model."""
    return set(LBW_FLUX) == set(scheme.ldm_cells())


def from_numbers(numbers: Sequence[float], scheme: BlockScheme, form: ListFormat, kind: Kind) -> dict[str, float]:
    """Return the number of each module, by its path, that a list of this form gives it."""
    listed = {
        path: number for slot, number in zip(list_slots(scheme, form), numbers, strict=True) for path in slot.paths
    }
    text_encoder = 0.0 if kind == "rank" else 1.0
    outside = 0.0 if kind == "rank" else listed.get("conv_in", 0.0)
    fill = {"te": text_encoder, "rest": outside}
    values = {module.path: listed.get(module.path, fill.get(module.block, 0.0)) for module in scheme.modules}
    if form == "kohya" and kind == "rank":
        # sd-scripts makes no layers outside the blocks, whatever the list says there.
        values |= {module.path: 0.0 for module in scheme.modules if module.block == "rest"}
    return values


def kohya_indices(scheme: BlockScheme) -> dict[str, int]:
    """Return the index in kohya's list, from 0, of each module's path; empty where there is no list."""
    if not scheme.ldm_cells() or has_flux_list(scheme):
        return {}
    return {path: index for index, slot in enumerate(list_slots(scheme, "kohya")) for path in slot.paths}


def _cell_slot(scheme: BlockScheme, cell: str) -> Slot:
    return Slot(cell, tuple(module.path for module in scheme.modules if module.ldm == cell))


def _kohya_sd(scheme: BlockScheme) -> tuple[Slot, ...]:
    return tuple(_cell_slot(scheme, cell) for cell in _LDM26 if cell != "BASE")


def _kohya_sdxl(scheme: BlockScheme) -> tuple[Slot, ...]:
    known = [module.path for module in scheme.modules]
    middle = [Slot(path, (path,)) for path in ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")]
    return (
        Slot("embeddings", tuple(path for path in KOHYA_SDXL_FIRST if path in known)),
        *(_cell_slot(scheme, cell) for cell in _LDM20 if cell.startswith("IN")),
        *middle,
        *(_cell_slot(scheme, cell) for cell in _LDM20 if cell.startswith("OUT")),
        Slot("out", KOHYA_SDXL_LAST),
    )


def _slot_number(slot: Slot, spec: BlockSpec, form: ListFormat) -> float:
    numbers = {path: spec.values[path] for path in slot.paths}
    if len(set(numbers.values())) > 1:
        numbers_text = ", ".join(f"{path}={number_text(number)}" for path, number in numbers.items())
        raise BwlabError(
            f"{spec.text!r} as {form} list",
            f"{slot.name} takes one number, but there are {numbers_text}",
            "Give them the same number",
        )
    return next(iter(numbers.values()))
