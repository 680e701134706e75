"""`gradient_path = "skip"`: the inner blocks of a UNet run without a graph.

With in0 and out3 trained, the exact gradient of in0 flows back through every block between them, which costs nearly a
full backward pass, and through the skip connections that lead from in0 straight to out3. This keeps the second road and
cuts the first. It is an approximation: `python -m benchmarks.gradient_path` prints how near it comes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from bwlab.errors import BwlabError

ASKED = 'training.gradient_path = "skip"'
DOWN, MID, UP = "down_blocks", "mid_block", "up_blocks"


@dataclass(frozen=True)
class SkipPath:
    """What runs without a graph, and what learns nothing for it.

    Attributes:
        inner: paths of the blocks between the last trained down block and the first trained up block.
        unreached: trained layers to which no gradient comes: they lie after the last skip connection that leads to a
            block with a graph, as the downsampler of in0 does if only in0 and out3 are trained.
    """

    inner: tuple[str, ...]
    unreached: tuple[str, ...]


@dataclass(frozen=True)
class _Skip:
    """One skip connection: from after a module of a down block to an up block."""

    source: str
    level: int
    reader: int


def skip_path(unet: nn.Module, layers: Collection[str]) -> SkipPath:
    """What `gradient_path = "skip"` means for a UNet2DConditionModel whose `layers` (paths) are trained.

    The rule: at least one down block and one up block are trained, the mid block is not, and every trained down block
    has a layer from which a skip connection leads, directly or by way of the down blocks up to the last trained one,
    to the first trained up block or one after it. Layers of text encoders and outside the blocks do not count.

    Raises:
        BwlabError: the rule is not met, so that the setting would save nothing or a trained block would learn nothing.
    """
    downs = sorted({int(path.split(".")[1]) for path in layers if path.startswith(f"{DOWN}.")})
    ups = sorted({int(path.split(".")[1]) for path in layers if path.startswith(f"{UP}.")})
    _require(not any(path.startswith(f"{MID}.") for path in layers), "mid is trained, and no skip connection leaves it")
    _require(bool(downs), "no down block is trained, so the exact gradient ends at the first trained block by itself")
    _require(bool(ups), "no up block is trained, and skip connections lead to up blocks")
    modules = [path for level in range(downs[-1] + 1) for path in _modules(unet, level)]
    useful = [modules.index(skip.source) for skip in _skips(unet) if skip.level <= downs[-1] and skip.reader >= ups[0]]
    last = max(useful, default=-1)
    trained = [path for path in layers if path.startswith(f"{DOWN}.")]
    unreached = tuple(path for path in trained if modules.index(_module_of(path)) > last)
    for level in downs:
        own = [path for path in trained if path.startswith(f"{DOWN}.{level}.")]
        reached = any(path not in unreached for path in own)
        _require(reached, f"in{level} is trained, and none of its skip connections leads to out{ups[0]} or after it")
    inner = [f"{DOWN}.{level}" for level in range(downs[-1] + 1, len(unet.get_submodule(DOWN)._modules))]
    return SkipPath((*inner, MID, *(f"{UP}.{level}" for level in range(ups[0]))), unreached)


@contextmanager
def without_inner_graph(unet: nn.Module, path: SkipPath) -> Iterator[None]:
    """Inside the `with` block the inner blocks run without a graph; no module is changed."""
    handles: list[RemovableHandle] = []
    try:
        for name in path.inner:
            block, state = unet.get_submodule(name), _NoGraph()
            handles.append(block.register_forward_pre_hook(state.before))
            handles.append(block.register_forward_hook(state.after, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _NoGraph:
    """Switches gradients off while a block runs, and back to what they were."""

    def __init__(self) -> None:
        self._enabled = True

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._enabled = torch.is_grad_enabled()
        torch.set_grad_enabled(False)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        torch.set_grad_enabled(self._enabled)


def _skips(unet: nn.Module) -> Iterator[_Skip]:
    """The skip connections that leave down blocks, in the order in which they are made.

    Each resnet, with the transformer after it, gives one and so does a downsampler; each resnet of the up blocks takes
    the last one that is left. The first connection, that of conv_in, belongs to no block.
    """
    sources = [("", -1)]
    for level, _ in enumerate(unet.get_submodule(DOWN).children()):
        modules = _modules(unet, level)
        transformers = [path for path in modules if ".attentions." in path]
        pairs = transformers or [path for path in modules if ".resnets." in path]
        sources += [(path, level) for path in pairs + [path for path in modules if ".downsamplers." in path]]
    readers = [
        index
        for index, block in enumerate(unet.get_submodule(UP).children())
        for _ in block.get_submodule("resnets").children()
    ]
    for (source, level), reader in zip(sources, reversed(readers), strict=True):
        if source:
            yield _Skip(source, level, reader)


def _modules(unet: nn.Module, level: int) -> list[str]:
    """Paths of a down block's modules in the order in which data flows."""
    block = unet.get_submodule(f"{DOWN}.{level}")
    children = dict(block.named_children())
    paths: list[str] = []
    for index in range(len(children["resnets"]._modules)):
        paths.append(f"{DOWN}.{level}.resnets.{index}")
        if "attentions" in children:
            paths.append(f"{DOWN}.{level}.attentions.{index}")
    if "downsamplers" in children:
        paths.append(f"{DOWN}.{level}.downsamplers.0")
    return paths


def _module_of(layer: str) -> str:
    """The path of the resnet, transformer or resampler that a layer lies in."""
    return ".".join(layer.split(".")[:4])


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise BwlabError(ASKED, found, 'Train outer blocks of both sides, such as "upper", or leave it at "exact"')
