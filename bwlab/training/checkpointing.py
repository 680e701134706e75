"""Gradient checkpointing only where a gradient flows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def gradient_checkpointing(unet: nn.Module, layers: Collection[str]) -> Iterator[None]:
    """Inside the `with` block activations of a diffusers UNet are computed again in the backward pass, not kept.

    What comes before the first trained layer has no backward pass: it is run once, without the bookkeeping. Gradients
    are those of a run without checkpointing. Backward passes belong inside the block, because what hangs on the model
    (adapters, `lean_graph`) must act alike when activations are computed again.

    Args:
        unet: a diffusers model that supports checkpointing.
        layers: paths of the trained layers.
    """
    modules = dict(unet.named_modules())
    names = {name for path in layers for name in _above(path)} & set(modules)
    trained = {id(modules[name]) for name in names}

    def run(module: nn.Module, *args: Any) -> Any:
        if id(module) not in trained and not any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
            return module(*args)
        return checkpoint(module.__call__, *args, use_reentrant=False)

    able: list[Any] = [module for module in modules.values() if hasattr(module, "gradient_checkpointing")]
    before = [module.gradient_checkpointing for module in able]
    unet.enable_gradient_checkpointing(run)  # type: ignore[operator]  # of diffusers' models
    try:
        yield
    finally:
        for module, enabled in zip(able, before, strict=True):
            module.gradient_checkpointing = enabled


def _above(path: str) -> Iterator[str]:
    """The paths of a layer and of all modules that it lies in."""
    names = path.split(".")
    return (".".join(names[:end]) for end in range(1, len(names) + 1))
