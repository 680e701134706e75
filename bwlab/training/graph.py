"""How much of autograd's graph a training step builds and keeps: gradient checkpointing and the skip gradient path."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from bwlab.errors import BwlabError
from bwlab.training.config import OptimizerConfig
from bwlab.training.lean_graph import lean_graph

LEAN_PARAMETERS = 50_000_000  # smallest UNet for which `lean_graph` pays

SKIP_SETTING = 'training.gradient_path = "skip"'
DOWN, MID, UP = "down_blocks", "mid_block", "up_blocks"


def check_gradient_path(unet: nn.Module, layers: Collection[str], training: OptimizerConfig) -> None:
    """Raise BwlabError if the gradient path of the settings makes no sense for the paths of the trained layers."""
    if training.gradient_path == "skip":
        skip_path(unet, layers)


@contextmanager
def training_graph(unet: nn.Module, layers: Collection[str], training: OptimizerConfig) -> Iterator[None]:
    """Build no more graph than the settings need, in the training steps of a `with` block.

    Forward and backward passes belong inside the block. `lean_graph` is left out for compiled models, which plan their
    memory themselves, and for small ones, where it costs time (6 % of a step with the embedded base) to save a few
    megabytes.
    """
    with ExitStack() as held:
        if training.gradient_path == "skip":
            held.enter_context(without_inner_graph(unet, skip_path(unet, layers)))
        if training.gradient_checkpointing:
            held.enter_context(gradient_checkpointing(unet, layers))
        if not training.compile and sum(weight.numel() for weight in unet.parameters()) >= LEAN_PARAMETERS:
            held.enter_context(lean_graph(unet))
        yield


@contextmanager
def gradient_checkpointing(unet: nn.Module, layers: Collection[str]) -> Iterator[None]:
    """Compute the activations of a UNet again in the backward pass instead of keeping them, for a `with` block.

    Modules before the first trained layer have no backward pass: they run once, without checkpointing. Gradients are
    those of a run without checkpointing. Backward passes belong inside the block, because the hooks on the model
    (adapters, `lean_graph`) must be the same when activations are computed again.

    Args:
        unet: a diffusers model that supports checkpointing.
        layers: paths of the trained layers.

    """
    modules = dict(unet.named_modules())
    names = {name for path in layers for name in _enclosing_paths(path)} & set(modules)
    trained = {id(modules[name]) for name in names}

    def run(module: nn.Module, *args: Any) -> Any:
        if id(module) not in trained and not any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
            return module(*args)
        return checkpoint(module.__call__, *args, use_reentrant=False)

    supporting: list[Any] = [module for module in modules.values() if hasattr(module, "gradient_checkpointing")]
    before = [module.gradient_checkpointing for module in supporting]
    unet.enable_gradient_checkpointing(run)  # type: ignore[operator]  # of diffusers' models
    try:
        yield
    finally:
        for module, enabled in zip(supporting, before, strict=True):
            module.gradient_checkpointing = enabled


def _enclosing_paths(path: str) -> Iterator[str]:
    """Return the paths of a layer and of all modules that contain it."""
    names = path.split(".")
    return (".".join(names[:end]) for end in range(1, len(names) + 1))


@dataclass(frozen=True)
class SkipPath:
    """The blocks that run without a graph, and the trained layers that get no gradient because of that.

    Attributes:
        inner: paths of the blocks between the last trained down block and the first trained up block.
        unreached: paths of trained layers without a gradient. They lie after the last skip connection that leads to a
            block with a graph, such as the downsampler of in0 if only in0 and out3 are trained.

    """

    inner: tuple[str, ...]
    unreached: tuple[str, ...]


@dataclass(frozen=True)
class _Skip:
    """One skip connection: from the output of a module in down block `level` to up block `reader`."""

    source: str
    level: int
    reader: int


def skip_path(unet: nn.Module, layers: Collection[str]) -> SkipPath:
    """Return what `gradient_path = "skip"` means for a UNet2DConditionModel with these trained layers.

    The rule: at least one down block and one up block are trained, the mid block is not, and every trained down block
    has a layer from which a skip connection leads to the first trained up block or a later one, directly or through
    the down blocks up to the last trained one. Layers of text encoders and outside the blocks do not count.

    Args:
        unet: the UNet.
        layers: paths of the trained layers.

    Raises:
        BwlabError: the rule is broken, so that the setting would save nothing or a trained block would get no gradient.

    """
    downs = sorted({int(path.split(".")[1]) for path in layers if path.startswith(f"{DOWN}.")})
    ups = sorted({int(path.split(".")[1]) for path in layers if path.startswith(f"{UP}.")})
    _require(
        not any(path.startswith(f"{MID}.") for path in layers), "mid is trained, and no skip connection starts there"
    )
    _require(bool(downs), "no down block is trained, so the exact gradient ends at the first trained block anyway")
    _require(bool(ups), "no up block is trained, and all skip connections lead to up blocks")
    modules = [path for level in range(downs[-1] + 1) for path in _modules(unet, level)]
    useful = [modules.index(skip.source) for skip in _skips(unet) if skip.level <= downs[-1] and skip.reader >= ups[0]]
    last = max(useful, default=-1)
    trained = [path for path in layers if path.startswith(f"{DOWN}.")]
    unreached = tuple(path for path in trained if modules.index(_module_of(path)) > last)
    for level in downs:
        own = [path for path in trained if path.startswith(f"{DOWN}.{level}.")]
        reached = any(path not in unreached for path in own)
        _require(
            reached, f"in{level} is trained, and none of its skip connections leads to out{ups[0]} or a later block"
        )
    inner = [f"{DOWN}.{level}" for level in range(downs[-1] + 1, len(unet.get_submodule(DOWN)._modules))]
    return SkipPath((*inner, MID, *(f"{UP}.{level}" for level in range(ups[0]))), unreached)


@contextmanager
def without_inner_graph(unet: nn.Module, path: SkipPath) -> Iterator[None]:
    """Run the inner blocks without a graph for a `with` block; no module is changed."""
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
    """Switches gradients off while a block runs, and back to the former state."""

    def __init__(self) -> None:
        self._enabled = True

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._enabled = torch.is_grad_enabled()
        torch.set_grad_enabled(False)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        torch.set_grad_enabled(self._enabled)


def _skips(unet: nn.Module) -> Iterator[_Skip]:
    """Yield the skip connections that start in down blocks, in the order in which the UNet stores them.

    Each resnet, with the transformer after it, stores one, and so does a downsampler; each resnet of the up blocks
    takes the last one that is left. The first connection, that of conv_in, belongs to no block.
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
    """Return the paths of a down block's modules in the order of the forward pass."""
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
    """Return the path of the resnet, transformer or resampler that contains a layer."""
    return ".".join(layer.split(".")[:4])


def _require(condition: bool, reason: str) -> None:
    """Raise BwlabError with a reason why the skip gradient path makes no sense, unless a condition holds."""
    if not condition:
        raise BwlabError(
            SKIP_SETTING, reason, 'Train outer blocks of both sides, such as "upper", or set it to "exact"'
        )
