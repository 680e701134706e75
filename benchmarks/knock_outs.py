"""Time all knock-outs of an adapter in one batched pass, against one pass for each: `python -m benchmarks.knock_outs`.

Both ways evaluate the same latents at one timestep, in turns; the table shows CPU seconds (all threads), how far the
results differ, and the share of block computations that is left when what variants have in common is computed once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.models import MODELS, denoiser_inputs, random_denoiser
from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.names import EMBEDDED
from bwlab.blocks.spec import parse_spec
from bwlab.plugins.manager import build_manager
from bwlab_analysis.activations.batched_denoiser import BatchedDenoiser, Variant, adapted_blocks
from bwlab_analysis.activations.probe import scheme_of


def random_adapter(unet: nn.Module, kind: str, rank: int) -> Adapter:
    """Return an adapter on all blocks, all its numbers random and small."""
    scheme = scheme_of(unet)
    ranks = parse_spec(f"all={rank}", scheme, kind="rank")
    adapter = create_adapter(unet, build_manager().adapter_type(kind), ranks, None, scheme=scheme)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(0, 0.02, generator=generator)
    return adapter.eval()


def model_and_inputs(model: str, latents: int, count: int) -> tuple[nn.Module, dict[str, Any]]:
    """Return the UNet of a name, and the arguments of a pass over a number of latents."""
    if model == EMBEDDED:
        from bwlab.base.load import load_base

        unet: Any = load_base(EMBEDDED).unet
    else:
        unet = random_denoiser(MODELS[model])
    arguments = denoiser_inputs(dict(unet.config), latents, count, torch.float32)
    arguments["timestep"] = torch.full((count,), 500)
    return unet, arguments


def separately(unet: nn.Module, adapter: Adapter, variants: list[Variant], inputs: Mapping[str, Any]) -> Tensor:
    """Return the predictions of one pass for each variant."""
    outputs = []
    for (gate,) in variants:
        with attach(unet, ScaledAdapter(adapter, gate)):
            outputs.append(unet(**inputs)[0])
    return torch.stack(outputs)


def measured(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return the CPU seconds of a call, and its result."""
    start = time.process_time()
    with torch.no_grad():
        result = call()
    return time.process_time() - start, result


def main(
    model: Annotated[str, typer.Option(help=f"{EMBEDDED}, or random weights of {', '.join(MODELS)}.")] = EMBEDDED,
    kind: Annotated[str, typer.Option(help="Adapter type: lora or locon.")] = "locon",
    rank: Annotated[int, typer.Option(min=1, help="Rank of every layer.")] = 8,
    latents: Annotated[int, typer.Option(min=8, help="Height and width of the latents.")] = 16,
    count: Annotated[int, typer.Option(min=1, help="Number of latents in a pass.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Number of timed repeats; the median is shown.")] = 5,
) -> None:
    """Compare the batched pass with separate ones."""
    unet, inputs = model_and_inputs(model, latents, count)
    adapter = random_adapter(unet, kind, rank)
    variants: list[Variant] = [({"*": 1.0, block: 0.0},) for block in adapted_blocks(adapter)]
    denoiser = BatchedDenoiser(unet, adapter.scheme, [adapter], variants)
    arguments = dict(inputs)
    sample, timestep = arguments.pop("sample"), arguments.pop("timestep")
    arguments.pop("return_dict")
    ways = {
        "separately": lambda: separately(unet, adapter, variants, inputs),
        "batched": lambda: denoiser.forward(sample, timestep, [arguments]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    outputs: dict[str, Tensor] = {}
    for turn in range(repeats + 1):
        for name, call in ways.items():
            spent, outputs[name] = measured(call)
            if turn:
                seconds[name].append(spent)
    apart, together = (statistics.median(seconds[name]) for name in ways)
    difference = float((outputs["batched"] - outputs["separately"]).abs().max() / outputs["separately"].abs().max())
    table = Table(
        "separately, s",
        "batched, s",
        "ratio",
        "blocks left",
        "difference",
        title=f"{model}, {len(variants)} knock-outs of {kind} rank {rank}, {count} latents of {latents} x {latents}",
    )
    table.add_row(
        f"{apart:.2f}", f"{together:.2f}", f"{together / apart:.2f}", f"{denoiser.cost():.2f}", f"{difference:.1e}"
    )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
