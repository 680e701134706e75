"""lora_diffusion's files: layers by number, in the order in which its `_find_modules` visits the model.

Source: cloneofsimo/lora, lora_diffusion/lora.py: `_find_modules_v2` and the earlier loops walk `model.modules()` for
modules of the target classes, and number the Linear layers in each of them; with `inject_trainable_lora_extended` also
the Conv2d layers. The model's order is that of diffusers: the mid block comes after the up blocks, attentions before
ResNet blocks; in a transformer block, the feed-forward (class GEGLU) stood between the two attentions until diffusers
0.14, and stands after them since 0.15. transformers' CLIPAttention holds k, v, q, out in all versions.

Files do not record the version, so the order is the one whose shapes are those of the file; no two orders have the same
shapes (tests/formats/test_lora_diffusion.py). The classes in the metadata do not decide, because lora_diffusion's
cli_pt_to_safetensors writes its default classes for every list.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

from bwlab.errors import BwlabError, BwlabWarning
from bwlab.formats.keys import DOWN, UP
from bwlab.formats.types import FormatReader, FormatWriter
from bwlab.text import parse_json

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents, ParsedKey
    from bwlab.formats.safetensors import AdapterFile

NUMBERED = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
TOKEN = re.compile(r"<.*>")
INDEX = re.compile(r"\d+")

# Diffusers renamed CrossAttention to Attention in version 0.15.
ATTENTION, FEED_FORWARD, RESNET = frozenset({"CrossAttention", "Attention"}), "GEGLU", "ResnetBlock2D"
TEXT_ATTENTION = "CLIPAttention"
EMBEDDING = "<embed>"  # the value that lora_diffusion's metadata has for the key of each token
WIDTHS = (320, 640, 1280, 1280)  # of the levels of the UNet of SD 1.x and 2.x
TIME_WIDTH = 1280
TEXT_LAYERS = ("k_proj", "v_proj", "q_proj", "out_proj")

# (out, in, kernel size) of a layer; in is None if it is the width of the text, kernel None for a linear layer.
Shape: TypeAlias = tuple[int, int | None, int | None]
Layer: TypeAlias = tuple[str, Shape]


class FeedForward(Enum):
    """Whether and where a file has the feed-forward layer of each transformer block."""

    ABSENT = "absent"
    BETWEEN = "between the attentions"
    AFTER = "after the attentions"


class Resnets(Enum):
    """Which layers of ResNet blocks a file holds."""

    ABSENT = "absent"
    LINEAR = "time projections"
    ALL = "time projections and convolutions"


@dataclass(frozen=True)
class UNetOrder:
    """The kinds of layers of a UNet that a file numbers, and their order."""

    attention: bool = True
    feed_forward: FeedForward = FeedForward.ABSENT
    resnets: Resnets = Resnets.ABSENT

    @property
    def classes(self) -> frozenset[str]:
        """The classes of lora_diffusion's targets, with diffusers' later name for attention."""
        named = {"Attention": self.attention, FEED_FORWARD: self.feed_forward is not FeedForward.ABSENT}
        return frozenset(name for name, held in (named | {RESNET: self.resnets is not Resnets.ABSENT}).items() if held)

    def layers(self) -> Iterator[Layer]:
        """Yield (path, shape) of the layers of the UNet of SD 1.x and 2.x in this order."""
        for prefix, width, attentions, inputs in _unet_blocks():
            for index in range(attentions):
                yield from self._transformer(f"{prefix}.attentions.{index}.transformer_blocks.0", width)
            for index, inner in enumerate(inputs):
                yield from self._resnet(f"{prefix}.resnets.{index}", width, inner)

    def _transformer(self, block: str, width: int) -> Iterator[Layer]:
        feed_forward: Layer = (f"{block}.ff.net.0.proj", (8 * width, width, None))
        if self.attention:
            yield from _attention(f"{block}.attn1", width, width)
        if self.feed_forward is FeedForward.BETWEEN:
            yield feed_forward
        if self.attention:
            yield from _attention(f"{block}.attn2", width, None)
        if self.feed_forward is FeedForward.AFTER:
            yield feed_forward

    def _resnet(self, block: str, width: int, inner: int) -> Iterator[Layer]:
        if self.resnets is Resnets.ALL:
            yield f"{block}.conv1", (width, inner, 3)
        if self.resnets is not Resnets.ABSENT:
            yield f"{block}.time_emb_proj", (width, TIME_WIDTH, None)
        if self.resnets is Resnets.ALL:
            yield f"{block}.conv2", (width, width, 3)
            if inner != width:
                yield f"{block}.conv_shortcut", (width, inner, 1)


def unet_orders() -> Iterator[UNetOrder]:
    """Yield each order in which lora_diffusion may have numbered the layers of a UNet, the most frequent ones first."""
    for resnets, attention in product((Resnets.ABSENT, Resnets.ALL, Resnets.LINEAR), (True, False)):
        for feed_forward in (FeedForward.ABSENT, FeedForward.BETWEEN, FeedForward.AFTER):
            # Without attention, the two places of the feed-forward are one.
            order = UNetOrder(attention, feed_forward, resnets)
            if order.classes and (attention or feed_forward is not FeedForward.AFTER):
                yield order


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether a key is a numbered layer, such as `unet:0:up`."""
    return any(NUMBERED.fullmatch(key) for key in keys)


def recognises_list(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether the file is a list of tensors, whose keys are their indices."""
    return bool(keys) and all(INDEX.fullmatch(key) for key in keys)


def read(file: AdapterFile) -> AdapterContents:
    """Return the contents of a safetensors file of numbered layers: scale 1, embeddings of tokens such as `<s1>`."""
    from bwlab.formats.contents import assemble

    tokens = (key for key in file.entries if TOKEN.fullmatch(key) or file.metadata.get(key) == EMBEDDING)
    embeddings = {key: file.tensor(key) for key in tokens}
    parsed: list[ParsedKey] = []
    for part in ("unet", "text_encoder"):
        pairs = _numbered(file, part)
        names = _names(file, part, pairs) if pairs else []
        parsed += _parsed(names, pairs)
    known = {key.key for key in parsed} | set(embeddings)
    return assemble(
        file, "lora-diffusion", parsed, embeddings=embeddings, unknown=[key for key in file.entries if key not in known]
    )


def read_list(file: AdapterFile) -> AdapterContents:
    """Return the contents of a list `[up, down, ...]` of the layers of a UNet or text encoder, at scale 1."""
    from bwlab.formats.contents import assemble

    keys = sorted(file.entries, key=int)
    if len(keys) % 2:
        raise _unfit(file, f"it is a list of {len(keys)} tensors, which do not form pairs")
    pairs = list(zip(keys[::2], keys[1::2], strict=True))
    shapes = [_shape(file, *pair) for pair in pairs]
    names = _text_names(shapes)
    if names is None:
        order = _unet_order(shapes)
        if order is None:
            raise _unfit(file, f"its {len(pairs)} pairs fit neither a text encoder nor {_misfit(shapes)}")
        names = _paths(order)
    return assemble(file, "lora-diffusion-list", _parsed(names, pairs))


def _unet_blocks() -> Iterator[tuple[str, int, int, list[int]]]:
    """Yield (path, width, number of attentions, inputs of the ResNet blocks) in diffusers' order: down, up, mid."""
    skips, previous, last = [WIDTHS[0]], WIDTHS[0], len(WIDTHS) - 1
    for level, width in enumerate(WIDTHS):
        yield f"down_blocks.{level}", width, 0 if level == last else 2, [previous, width]
        skips += [width] * (2 if level == last else 3)
        previous = width
    for level, width in enumerate(reversed(WIDTHS)):
        before = [previous, width, width]
        yield f"up_blocks.{level}", width, 3 if level else 0, [inner + skips.pop() for inner in before]
        previous = width
    yield "mid_block", WIDTHS[-1], 1, [WIDTHS[-1]] * 2


def _attention(path: str, width: int, inner: int | None) -> Iterator[Layer]:
    yield f"{path}.to_q", (width, width, None)
    yield f"{path}.to_k", (width, inner, None)
    yield f"{path}.to_v", (width, inner, None)
    yield f"{path}.to_out.0", (width, width, None)


def _paths(order: UNetOrder) -> list[str]:
    return [path for path, _ in order.layers()]


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


def _shape(file: AdapterFile, up: str, down: str) -> Shape:
    """Return (out, in, kernel size) of a pair."""
    shapes = file.entries[up].shape, file.entries[down].shape
    if any(len(shape) not in (2, 4) for shape in shapes):
        raise _unfit(file, f"{up} {shapes[0]} and {down} {shapes[1]} are not factors of linear or convolution layers")
    return shapes[0][0], shapes[1][1], shapes[1][-1] if len(shapes[1]) > 2 else None


def _names(file: AdapterFile, part: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    shapes = [_shape(file, *pair) for pair in pairs]
    names, classes = _text_layers(shapes) if part == "text_encoder" else _unet_layers(shapes)
    if names is None:
        fitting = "the attention layers of CLIP, 4 of each block" if part == "text_encoder" else _misfit(shapes)
        raise _unfit(file, f"its {len(shapes)} layers of the {part} do not fit {fitting}")
    targets = _targets(file, part)
    # diffusers has only one of the two classes of attention, so that the metadata may name either or both.
    if targets and {"Attention" if name in ATTENTION else name for name in targets} != classes:
        _warn_of_classes(file, part, len(shapes), targets, classes)
    return names


def _unet_layers(shapes: Sequence[Shape]) -> tuple[list[str] | None, frozenset[str]]:
    order = _unet_order(shapes)
    return (None, frozenset()) if order is None else (_paths(order), order.classes)


def _text_layers(shapes: Sequence[Shape]) -> tuple[list[str] | None, frozenset[str]]:
    return _text_names(shapes), frozenset({TEXT_ATTENTION})


def _warn_of_classes(
    file: AdapterFile, part: str, count: int, targets: Collection[str], classes: Collection[str]
) -> None:
    warnings.warn(
        f"adapter {file.path}: its metadata names the classes {', '.join(sorted(targets))} for the {part}, but its "
        f"{count} layers have the shapes of {', '.join(sorted(classes))}, by which they were read",
        BwlabWarning,
        stacklevel=2,
    )


def _targets(file: AdapterFile, part: str) -> set[str]:
    """Return the classes whose layers were trained, according to the metadata; empty if it names none."""
    try:
        return {str(name) for name in parse_json(file.metadata[part])}
    except (KeyError, ValueError, TypeError):
        return set()


def _unet_order(shapes: Sequence[Shape]) -> UNetOrder | None:
    """Return the order whose layers have these shapes, or None."""
    return next((order for order in unet_orders() if _misfits(order, shapes) == []), None)


def _misfits(order: UNetOrder, shapes: Sequence[Shape]) -> list[int] | None:
    """Return the indices of the shapes that differ from those of an order; None if the number of layers differs."""
    wanted = [shape for _, shape in order.layers()]
    if len(wanted) != len(shapes):
        return None
    widths = Counter(given[1] for (_, inner, _), given in zip(wanted, shapes, strict=True) if inner is None)
    text = widths.most_common(1)[0][0] if widths else None
    filled = [(out, text if inner is None else inner, kernel) for out, inner, kernel in wanted]
    return [index for index, given in enumerate(shapes) if given != filled[index]]


def _misfit(shapes: Sequence[Shape]) -> str:
    """Return in words why no order fits: the numbers of layers, or the first layer of another shape."""
    near = {order: misfits for order in unet_orders() if (misfits := _misfits(order, shapes))}
    model = "the UNet of SD 1.x or 2.x"
    if not near:
        named = (UNetOrder(), UNetOrder(feed_forward=FeedForward.BETWEEN))
        whole = UNetOrder(feed_forward=FeedForward.BETWEEN, resnets=Resnets.ALL)
        attention, forward, every = (len(_paths(order)) for order in (*named, whole))
        return (
            f"{model}, which has {attention} for attention, {forward} with the feed-forward, {every} with ResNet blocks"
        )
    order = min(near, key=lambda order: len(near[order]))
    path, shape = list(order.layers())[near[order][0]]
    return f"{model}: number {near[order][0]} is {_words(shapes[near[order][0]])}, but {path} is {_words(shape)}"


def _words(shape: Shape) -> str:
    out, inner, kernel = shape
    sizes = f"{out} x {'the width of the text' if inner is None else inner}"
    return sizes if kernel is None else f"{sizes} x {kernel} x {kernel}"


def _text_names(shapes: Sequence[Shape]) -> list[str] | None:
    """Return the paths of a text encoder's attention layers if the number fits and all are squares of one size."""
    sizes = {size for out, inner, kernel in shapes for size in ((out, inner) if kernel is None else (None,))}
    if len(shapes) % len(TEXT_LAYERS) or len(sizes) != 1 or None in sizes:
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
