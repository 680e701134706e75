"""Time a sampling step with two adapters by each fusion method, beside the plain sum: `python -m benchmarks.fusion`.

A step is what bwlab does at each call of the UNet: set the hooks of the step, then evaluate the UNet on one image with
guidance (a batch of 2). The methods take turns; the table shows median CPU seconds (all threads), their ratio to the
plain sum, and the CPU seconds before the first step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.knock_outs import model_and_inputs, random_adapter
from bwlab.adapters.attach import ScaledAdapter
from bwlab.adapters.modules import adapted_by_path
from bwlab.base.names import EMBEDDED
from bwlab.errors import BwlabError
from bwlab.fusion.hooks import FusedAdapters
from bwlab.fusion.method import SamplingStep
from bwlab.fusion.types import SUM
from bwlab.plugins.manager import build_manager


@dataclass(eq=False)
class Timed:
    """A fusion method on a UNet.

    Attributes:
        acting: its hooks.
        planning: CPU seconds before the first step.
        steps: CPU seconds of each step.

    """

    acting: FusedAdapters
    planning: float
    steps: list[float] = field(default_factory=list)


def cpu_seconds(act: Callable[[], object]) -> float:
    """Return the CPU seconds of all threads that a call takes."""
    start = time.process_time()
    act()
    return time.process_time() - start


def planned(unet: nn.Module, adapters: list[ScaledAdapter], kind: str) -> dict[str, Timed]:
    """Return every installed method that takes these adapters on this UNet, the plain sum first."""
    bases, methods = adapted_by_path(unet), {}
    for name, fusion_type in sorted(build_manager().fusions().items(), key=lambda item: item[0] != SUM):
        acting = FusedAdapters(unet, bases, fusion_type.with_options({}))
        try:
            methods[name] = Timed(acting, cpu_seconds(lambda acting=acting: acting.plan(adapters)))  # type: ignore[misc]
        except BwlabError as error:
            Console(stderr=True).print(f"{name} on {kind}: {error.found}")
    return methods


def one_step(method: Timed, unet: nn.Module, inputs: Mapping[str, Any], step: SamplingStep) -> None:
    """Time one step."""

    def act() -> None:
        method.acting.act(step)
        unet(**inputs)

    method.steps.append(cpu_seconds(act))
    method.acting.remove()


def main(
    model: Annotated[str, typer.Option(help="emoji, or random weights of sd14, sd21 or sdxl.")] = EMBEDDED,
    rank: Annotated[int, typer.Option(help="Rank of the two adapters, LoCon on all blocks.")] = 8,
    latents: Annotated[int, typer.Option(help="Height and width of the latents.")] = 16,
    steps: Annotated[int, typer.Option(help="Number of steps.")] = 20,
) -> None:
    """Print the table."""
    unet, inputs = model_and_inputs(model, latents, 2)
    adapters = [ScaledAdapter(random_adapter(unet, "locon", rank)) for _ in range(2)]
    methods = planned(unet, adapters, model)
    with torch.no_grad():
        unet(**inputs)
        for index in range(steps):
            for method in methods.values():
                one_step(method, unet, inputs, SamplingStep(index, steps))
    plain = statistics.median(methods[SUM].steps)
    table = Table("method", "CPU seconds of a step", "beside sum", "before the first step")
    for name, method in methods.items():
        seconds = statistics.median(method.steps)
        table.add_row(name, f"{seconds:.3f}", f"x{seconds / plain:.2f}", f"{method.planning:.2f} s")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
