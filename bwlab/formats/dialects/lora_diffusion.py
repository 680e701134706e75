"""lora_diffusion's files: layers by number, in the order in which its diffusers of early 2023 held them.

Source: cloneofsimo/lora, lora_diffusion/lora.py: `_find_modules_v2` walks the model for modules of the target classes,
and takes every Linear in them. In the UNet of that time, the mid block came after the up blocks, and in a transformer
the feed-forward (class GEGLU) between the two attentions; transformers' CLIPAttention still holds k, v, q, out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.formats.keys import DOWN, UP
from bwlab.formats.types import FormatReader, FormatWriter

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents, ParsedKey
    from bwlab.formats.safetensors import AdapterFile

NUMBERED = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
TOKEN = re.compile(r"<.*>")
INDEX = re.compile(r"\d+")

# Diffusers renamed CrossAttention to Attention.
ATTENTION, FEED_FORWARD = {"CrossAttention", "Attention"}, "GEGLU"
TRANSFORMERS = (
    *((f"down_blocks.{level}.attentions.{pair}", 320 << level) for level in range(3) for pair in range(2)),
    *((f"up_blocks.{level}.attentions.{pair}", 1280 >> (level - 1)) for level in range(1, 4) for pair in range(3)),
    ("mid_block.attentions.0", 1280),
)
TEXT_LAYERS = ("k_proj", "v_proj", "q_proj", "out_proj")


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key is a numbered layer, such as `unet:0:up`."""
    return any(NUMBERED.fullmatch(key) for key in keys)


def recognises_list(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether the file is a list of tensors, whose keys are their indices."""
    return bool(keys) and all(INDEX.fullmatch(key) for key in keys)


def read(file: AdapterFile) -> AdapterContents:
    """Return the contents of a safetensors file of numbered layers: scale 1, embeddings of tokens such as `<s1>`."""
    from bwlab.formats.contents import assemble

    embeddings = {key: file.tensor(key) for key in file.entries if TOKEN.fullmatch(key)}
    parsed: list[ParsedKey] = []
    for part in ("unet", "text_encoder"):
        pairs = _numbered(file, part)
        names = _names(file, part, [_shape(file, *pair) for pair in pairs]) if pairs else []
        parsed += _parsed(names, pairs)
    known = {key.key for key in parsed} | set(embeddings)
    return assemble(
        file, "lora-diffusion", parsed, embeddings=embeddings, unknown=[key for key in file.entries if key not in known]
    )


def read_list(file: AdapterFile) -> AdapterContents:
    """Return the contents of a list `[up, down, ...]` of the attention layers of a UNet or text encoder, at scale 1."""
    from bwlab.formats.contents import assemble

    keys = sorted(file.entries, key=int)
    if len(keys) % 2:
        raise _unfit(file, f"it is a list of {len(keys)} tensors, which do not form pairs")
    pairs = list(zip(keys[::2], keys[1::2], strict=True))
    shapes = [_shape(file, *pair) for pair in pairs]
    orders = (list(unet_layers(feed_forward)) for feed_forward in (False, True))
    order = next((order for order in orders if _fit(order, shapes)), None)
    names = _text_names(shapes) if order is None else [path for path, _, _ in order]
    if names is None:
        raise _unfit(file, f"its {len(pairs)} pairs are not those of a Stable Diffusion UNet or text encoder")
    return assemble(file, "lora-diffusion-list", _parsed(names, pairs))


def unet_layers(feed_forward: bool) -> Iterator[tuple[str, int, int | None]]:
    """Yield (path, out, in) of the layers of SD 1.x and 2.x in order; `in` is None where it is the text's width."""
    for path, width in TRANSFORMERS:
        block = f"{path}.transformer_blocks.0"
        yield from ((f"{block}.attn1.{layer}", width, width) for layer in ("to_q", "to_k", "to_v", "to_out.0"))
        if feed_forward:
            yield f"{block}.ff.net.0.proj", 8 * width, width
        yield f"{block}.attn2.to_q", width, width
        yield from ((f"{block}.attn2.{layer}", width, None) for layer in ("to_k", "to_v"))
        yield f"{block}.attn2.to_out.0", width, width


def _parsed(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[ParsedKey]:
    from bwlab.formats.contents import ParsedKey

    layers = zip(names, pairs, strict=True)
    return [key for name, (up, down) in layers for key in (ParsedKey(down, name, DOWN), ParsedKey(up, name, UP))]


def _numbered(file: AdapterFile, part: str) -> list[tuple[str, str]]:
    """Return the (up, down) keys of one part in the order of their numbers, which must be 0, 1, 2, ... without gaps."""
    numbers = sorted({int(match[2]) for key in file.entries if (match := NUMBERED.fullmatch(key)) and match[1] == part})
    pairs = [(f"{part}:{number}:up", f"{part}:{number}:down") for number in range(len(numbers))]
    missing = [key for pair in pairs for key in pair if key not in file.entries]
    if missing:
        raise _unfit(file, f"it lacks {missing[0]}")
    return pairs


def _shape(file: AdapterFile, up: str, down: str) -> tuple[int, int]:
    """Return (out, in) of a pair."""
    shapes = file.entries[up].shape, file.entries[down].shape
    if any(len(shape) < 2 for shape in shapes):
        raise _unfit(file, f"{up} {shapes[0]} and {down} {shapes[1]} are not matrices")
    return shapes[0][0], shapes[1][1]


def _names(file: AdapterFile, part: str, shapes: Sequence[tuple[int, int]]) -> list[str]:
    targets = _targets(file, part)
    if part == "text_encoder":
        names = _text_names(shapes) if targets <= {"CLIPAttention"} else None
    else:
        wanted = list(unet_layers(FEED_FORWARD in targets))
        fits = targets <= ATTENTION | {FEED_FORWARD} and _fit(wanted, shapes)
        names = [path for path, _, _ in wanted] if fits else None
    if names is None:
        classes = ", ".join(sorted(targets)) or "no classes"
        raise _unfit(file, f"its {len(shapes)} layers of the {part} (classes {classes}) are not those of SD 1.x or 2.x")
    return names


def _targets(file: AdapterFile, part: str) -> set[str]:
    """Return the classes whose layers were trained, according to the metadata; attention if it does not name any."""
    try:
        return set(json.loads(file.metadata[part]))
    except (KeyError, ValueError, TypeError):
        return set()


def _fit(wanted: Sequence[tuple[str, int, int | None]], shapes: Sequence[tuple[int, int]]) -> bool:
    if len(wanted) != len(shapes):
        return False
    text = {inner for (_, _, width), (_, inner) in zip(wanted, shapes, strict=True) if width is None}
    return len(text) == 1 and all(
        out == shape[0] and (inner is None or inner == shape[1])
        for (_, out, inner), shape in zip(wanted, shapes, strict=True)
    )


def _text_names(shapes: Sequence[tuple[int, int]]) -> list[str] | None:
    """Return the paths of a text encoder's attention layers if the number fits and all are squares of one size."""
    if len(shapes) % len(TEXT_LAYERS) or len({size for shape in shapes for size in shape}) != 1:
        return None
    layers = range(len(shapes) // len(TEXT_LAYERS))
    return [f"te.encoder.layers.{layer}.self_attn.{name}" for layer in layers for name in TEXT_LAYERS]


def _unfit(file: AdapterFile, found: str) -> BwlabError:
    return BwlabError(
        f"reading adapter {file.path}", found, "Give a file that lora_diffusion wrote for Stable Diffusion 1.x or 2.x"
    )


READERS = (
    FormatReader(
        "lora-diffusion",
        "lora_diffusion: unet:N:up, and embeddings of tokens",
        recognises,
        read,
        fallback=True,
    ),
    FormatReader(
        "lora-diffusion-list",
        "lora_diffusion's .pt files: a list of up and down in turn",
        recognises_list,
        read_list,
        fallback=True,
    ),
)
WRITERS: tuple[FormatWriter, ...] = ()
