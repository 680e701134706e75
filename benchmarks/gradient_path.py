"""Print how near `training.gradient_path = "skip"` is to the exact gradient, on the embedded base.

    python -m benchmarks.gradient_path

An adapter on in0 and out3 is trained on one style of the shipped images, with the exact gradient. During the training
both gradients are computed for the same batches, images, noise and timesteps. That of out3 is exact either way.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.conditioning import denoiser_conditions, encode_texts
from bwlab.base.load import base_scheme, load_base
from bwlab.base.noise import noise_process
from bwlab.benchmark import load_benchmark
from bwlab.blocks.spec import parse_spec
from bwlab.plugins.manager import build_manager
from bwlab.training.graph import skip_path, without_inner_graph
from bwlab.training.lean_graph import lean_graph

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

DOWN = "down_blocks"


@dataclass(frozen=True)
class Nearness:
    """How near the gradient of the down blocks is to the exact one in one batch.

    Attributes:
        cosine: cosine of the two gradients, -1..1, 1 for the same direction.
        length: norm of the gradient over that of the exact one.

    """

    cosine: float
    length: float


class Lesson:
    """An adapter on the embedded base, and batches of one style to train it on."""

    def __init__(self, kind: str, blocks: str, style: str, rank: int = 16) -> None:
        self.pipe: Pipeline = load_base("emoji")
        self.pipe.unet.eval().requires_grad_(False)
        manager = build_manager()
        scheme = base_scheme(self.pipe, manager.block_schemes())
        self.adapter: Adapter = create_adapter(
            self.pipe.unet,
            manager.adapter_type(kind),
            parse_spec(f"{blocks}={rank}", scheme, kind="rank"),
            None,
            scheme=scheme,
            generator=torch.Generator().manual_seed(0),
        ).train()
        self._latents, self._captions = style_images(self.pipe, style)
        self._process = noise_process(self.pipe)

    def loss(self, batch: int, size: int) -> Tensor:
        """Return the loss of one batch, a pure function of its number."""
        draw = torch.Generator().manual_seed(batch)
        chosen = torch.randint(len(self._captions), (size,), generator=draw)
        latents = self._latents[chosen]
        noise = torch.randn(latents.shape, generator=draw)
        timesteps = self._process.sample_times(size, draw)
        noisy = self._process.add_noise(latents, noise, timesteps)
        with torch.no_grad():
            text = encode_texts(self.pipe, [self._captions[int(index)] for index in chosen])
        conditions = denoiser_conditions(self.pipe, text, None)
        prediction = self.pipe.unet(noisy, timesteps, return_dict=False, **conditions)[0]
        return functional.mse_loss(prediction, self._process.target(latents, noise, timesteps))

    def gradient(self, batch: int, size: int) -> Tensor:
        """Return the gradient of the adapter's layers in the down blocks, as one row."""
        names, parameters = zip(*self.adapter.named_parameters(), strict=True)
        gradients = torch.autograd.grad(self.loss(batch, size), parameters, allow_unused=True)
        pairs = [
            (parameter, gradient)
            for name, parameter, gradient in zip(names, parameters, gradients, strict=True)
            if name.startswith(DOWN)
        ]
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


def style_images(pipe: Pipeline, style: str) -> tuple[Tensor, list[str]]:
    """Return latents `(images, channels, h, w)` and captions of one style of the benchmark."""
    import numpy as np

    benchmark = load_benchmark()
    pairs = benchmark.style_pairs(style)
    images = torch.stack([torch.from_numpy(np.array(benchmark.image(*pair))) for pair in pairs])
    with torch.no_grad():
        encoded = pipe.vae.encode(images.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    return encoded * pipe.vae.config.scaling_factor, [benchmark.caption(*pair) for pair in pairs]


def nearness(lesson: Lesson, batches: Sequence[int], size: int) -> Iterator[Nearness]:
    """Return a comparison for each batch, at the adapter's present weights."""
    unet = lesson.pipe.unet
    path = skip_path(unet, lesson.adapter.layers)
    for batch in batches:
        exact = lesson.gradient(batch, size)
        with without_inner_graph(unet, path):
            near = lesson.gradient(batch, size)
        yield Nearness(
            float(functional.cosine_similarity(exact, near, dim=0)), float(near.norm() / exact.norm().clamp(min=1e-30))
        )


def main(
    adapter: Annotated[str, typer.Option(help="Adapter type: lora or locon.")] = "locon",
    blocks: Annotated[str, typer.Option(help="Blocks that are trained.")] = "upper",
    style: Annotated[str, typer.Option(help="Style of the benchmark that is learned.")] = "ink",
    at: Annotated[str, typer.Option(help="Training steps after which gradients are compared.")] = "0,20,60,150",
    batches: Annotated[int, typer.Option(min=1, help="Number of batches to compare.")] = 16,
    size: Annotated[int, typer.Option(min=1, help="Number of images in a batch.")] = 8,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-3,
) -> None:
    """Compare the gradient of the down blocks with the exact one."""
    lesson = Lesson(adapter, blocks, style)
    optimizer = torch.optim.AdamW(lesson.adapter.parameters(), lr=lr)
    table = Table(title=f"{adapter} on {blocks}, style {style}: down blocks' gradient by skip connections alone")
    for heading in ("steps trained", "cosine to the exact", "least .. greatest", "length of the exact"):
        table.add_column(heading, justify="right")
    moments, done = sorted(int(number) for number in at.split(",")), 0
    with attach(lesson.pipe.unet, ScaledAdapter(lesson.adapter)), lean_graph(lesson.pipe.unet):
        for moment in moments:
            for batch in range(done, moment):
                optimizer.zero_grad()
                lesson.loss(batch, size).backward()
                optimizer.step()
            done = moment
            comparisons = list(nearness(lesson, range(1_000_000, 1_000_000 + batches), size))
            cosines = [comparison.cosine for comparison in comparisons]
            table.add_row(
                str(moment),
                f"{statistics.mean(cosines):.3f}",
                f"{min(cosines):.3f} .. {max(cosines):.3f}",
                f"x{statistics.mean(comparison.length for comparison in comparisons):.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
