"""Print CPU time and kept memory of single layers of LyCORIS' types: LyCORIS' default forward beside bwlab's.

    OMP_NUM_THREADS=1 python -m benchmarks.lycoris_layers

A step is the forward and the backward pass of one layer. The two take turns, so that a busy machine slows both alike.
Kept memory is what autograd holds between the passes, without the input, the frozen weight and the adapter's own
tensors. It needs lycoris-lora and the plugin bwlab-lycoris.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.train_step import quiet
from bwlab.adapters.layer import BaseLayer
from bwlab_lycoris.kinds import LYCORIS_KINDS
from bwlab_lycoris.layers import LAYERS

RANK = 16
# Name, the layer, and the shape of its input: those of SD 1.x at latents 32, in the outermost and the middle block.
CASES: Mapping[str, tuple[Callable[[], BaseLayer], tuple[int, ...]]] = {
    "linear 320, 1024 tokens": (lambda: nn.Linear(320, 320), (1, 1024, 320)),
    "linear 1280, 16 tokens": (lambda: nn.Linear(1280, 1280), (1, 16, 1280)),
    "3 x 3 conv 320, 32 x 32": (lambda: nn.Conv2d(320, 320, 3, padding=1), (1, 320, 32, 32)),
    "3 x 3 conv 640, 8 x 8": (lambda: nn.Conv2d(640, 640, 3, padding=1), (1, 640, 8, 8)),
}


def main(
    types: Annotated[str, typer.Option(help="Adapter types, joined by commas.")] = ",".join(LYCORIS_KINDS),
    repeats: Annotated[int, typer.Option(min=1, help="Number of timed steps of each.")] = 5,
) -> None:
    """Measure single layers."""
    quiet()
    table = Table(title=f"Rank {RANK}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for heading in ("type", "layer", "LyCORIS, ms", "bwlab, ms", "ratio", "LyCORIS, MB", "bwlab, MB"):
        table.add_column(heading, justify="left" if heading in ("type", "layer") else "right")
    for name in types.split(","):
        for case, (make, shape) in CASES.items():
            theirs, ours = steps(name, make(), torch.randn(shape))
            slow, fast = medians((theirs, ours), repeats)
            sizes = (f"{kept(step) / 1e6:.1f}" for step in (theirs, ours))
            table.add_row(name, case, f"{slow * 1e3:.1f}", f"{fast * 1e3:.1f}", f"{slow / fast:.1f}", *sizes)
    Console(width=110).print(table)


Forward = tuple[Callable[[], Tensor], set[int]]
"""A forward pass, and the storages that exist without it."""


def steps(name: str, base: BaseLayer, x: Tensor) -> tuple[Forward, Forward]:
    """Return the forward pass of LyCORIS' module and of bwlab's layer, with the same tensors, on one frozen layer."""
    base.requires_grad_(False)
    kind, x = LYCORIS_KINDS[name], x.requires_grad_()
    module_class = getattr(import_module(f"lycoris.modules.{kind.module[0]}"), kind.module[1])
    module = module_class("", base, 1.0, RANK, float(RANK), weight_decompose="dora_wd" in kind.arguments)
    layer = LAYERS[name].from_tensors(base, {leaf: tensor.detach() for leaf, tensor in module.state_dict().items()})

    def ours() -> Tensor:
        plain = base(x)
        return layer.on(base).add_to(plain, x, plain, 1.0)

    own = {_storage(tensor) for tensor in (x, *base.parameters())}
    return (
        (lambda: module(x), own | {_storage(p) for p in module.parameters()}),
        (ours, own | {_storage(p) for p in layer.parameters()}),
    )


def medians(forwards: tuple[Forward, Forward], repeats: int) -> list[float]:
    """Return the median CPU seconds of a step of each; a first round is not counted."""
    seconds: list[list[float]] = [[], []]
    for turn in range(repeats + 1):
        for taken, (forward, _) in zip(seconds, forwards, strict=True):
            began = time.process_time()
            forward().sum().backward()
            if turn:
                taken.append(time.process_time() - began)
    return [statistics.median(taken) for taken in seconds]


def kept(forward: Forward) -> int:
    """Return the bytes that autograd keeps for the backward pass."""
    run, known = forward
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in known:
            sizes[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()
    output.sum().backward()
    return sum(sizes.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


if __name__ == "__main__":
    typer.run(main)
