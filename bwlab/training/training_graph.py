"""How much of the graph a training step makes and keeps."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from bwlab.training.checkpointing import gradient_checkpointing
from bwlab.training.config import OptimizerConfig
from bwlab.training.gradient_path import skip_path, without_inner_graph
from bwlab.training.lean_graph import lean_graph

LEAN_PARAMETERS = 50_000_000


def check_gradient_path(unet: nn.Module, layers: Collection[str], training: OptimizerConfig) -> None:
    """Raise BwlabError if the settings' gradient path makes no sense for these trained layers (paths)."""
    if training.gradient_path == "skip":
        skip_path(unet, layers)


@contextmanager
def training_graph(unet: nn.Module, layers: Collection[str], training: OptimizerConfig) -> Iterator[None]:
    """Inside the `with` block steps of these settings make no more graph than they need.

    Forward and backward passes belong inside it. Compiled models plan their memory themselves, and in small ones
    `lean_graph` costs more time (6 % of a step with the embedded base) than the few megabytes are worth.
    """
    with ExitStack() as held:
        if training.gradient_path == "skip":
            held.enter_context(without_inner_graph(unet, skip_path(unet, layers)))
        if training.gradient_checkpointing:
            held.enter_context(gradient_checkpointing(unet, layers))
        if not training.compile and sum(weight.numel() for weight in unet.parameters()) >= LEAN_PARAMETERS:
            held.enter_context(lean_graph(unet))
        yield
