"""What one adapter does to another's denoising of its own pictures, and which of its blocks does it.

The denoising loss on a's pictures is what a was trained to lower. How far b beside it raises the loss again is the harm
that b does to a; what switching one block of b off takes away of the harm is that block's blame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab_analysis.activations.inputs import TIMESTEPS, Inputs
from bwlab_analysis.activations.passes import Pass, passes
from bwlab_analysis.activations.variants import (
    BASE,
    BOTH,
    A,
    B,
    blocks_of,
    pair_variants,
    random_like,
    random_name,
    without,
)

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


@dataclass(frozen=True)
class Loss:
    """A mean over latents and timesteps, with its standard error over pictures; NaN of a single one."""

    value: float
    error: float


@dataclass(frozen=True)
class BlockLoss:
    """By how much the loss beside both adapters changes when one block of one of them is switched off."""

    block: str
    change: Loss


@dataclass(frozen=True)
class LossReport:
    """Losses on one adapter's own pictures (mean squared error of the UNet's prediction).

    Attributes:
        adapter: whose pictures they are, `"a"` or `"b"`.
        inputs: the pictures, in words.
        base: of the base alone.
        own: with the adapter.
        both: with both adapters.
        gain: of the adapter itself, `base - own`.
        harm: of the other adapter, `both - own`.
        random_harm: of random adapters of the other's norms in its place, each.
        blame: of each block of the other adapter, by how much the loss falls without it; the most blamed first.
        need: of each block of the adapter itself, by how much the loss rises without it; the most needed first.

    """

    adapter: str
    inputs: str
    base: Loss
    own: Loss
    both: Loss
    gain: Loss
    harm: Loss
    random_harm: tuple[float, ...]
    blame: tuple[BlockLoss, ...]
    need: tuple[BlockLoss, ...]

    @property
    def gain_lost(self) -> float | None:
        """The harm as a share of what the adapter gains over the base; None if that is not above its standard error."""
        gains = self.gain.value > 0 and self.gain.value > self.gain.error
        return self.harm.value / self.gain.value if gains else None

    @property
    def doubtful(self) -> bool:
        """Whether these may not be the adapter's pictures: it lowers their loss by no more than the standard error."""
        return self.gain.value <= 0 or self.gain.value <= self.gain.error


def loss_interference(
    pipe: Pipeline,
    scheme: BlockScheme,
    own: Adapter,
    other: Adapter,
    inputs: Inputs,
    name: str = A,
    timesteps: Sequence[int] = TIMESTEPS,
    draws: int = 5,
    seed: int = 0,
    knock_outs: bool = True,
) -> LossReport:
    """Return what `other` does to the losses of `own` on its own pictures.

    Args:
        pipe: the base; nothing of it is changed.
        scheme: its blocks.
        own: whose pictures the inputs are.
        other: what is added.
        inputs: latents, noise and captions of `own`'s pictures.
        name: what `own` is called in the report.
        timesteps: 0..999, at which the latents are noised.
        draws: random adapters in `other`'s place.
        seed: of those.
        knock_outs: whether each block is switched off too, for blame and need; they are empty otherwise.

    """
    has_blocks = bool(blocks_of(other))
    drawn = [random_like(other, pipe.unet, seed + 1 + draw) for draw in range(draws if has_blocks else 0)]
    settings = [BASE, A, BOTH, *(random_name(B, draw, alone=False) for draw in range(len(drawn)))]
    blamed, needed = (blocks_of(one) if knock_outs else () for one in (other, own))
    settings += [without(B, block, alone=False) for block in blamed]
    settings += [without(A, block, alone=False) for block in needed]
    variants = pair_variants(own, other, (), drawn, knock_outs).only(settings)
    row = {name: torch.zeros(len(inputs), dtype=torch.float64) for name in settings}
    for one in passes(pipe, scheme, (own, other), variants, inputs, timesteps, [(name,) for name in settings]):
        for variant, losses in zip(one.names, _losses(one), strict=True):
            row[variant][one.rows] += losses / len(timesteps)
    harms = [row[random_name(B, draw, alone=False)] - row[A] for draw in range(len(drawn))]
    both = row[BOTH]

    def mean(values: Tensor) -> Loss:
        # Latents of one picture, with noise of their own, are no independent ones.
        pictures = torch.stack([values[first :: inputs.distinct].mean() for first in range(inputs.distinct)])
        error = float(pictures.std()) / math.sqrt(len(pictures)) if len(pictures) > 1 else math.nan
        return Loss(float(values.mean()), error)

    blame = [BlockLoss(block, mean(both - row[without(B, block, alone=False)])) for block in blamed]
    need = [BlockLoss(block, mean(row[without(A, block, alone=False)] - both)) for block in needed]
    return LossReport(
        name,
        inputs.source,
        mean(row[BASE]),
        mean(row[A]),
        mean(both),
        mean(row[BASE] - row[A]),
        mean(both - row[A]),
        tuple(float(harm.mean()) for harm in harms),
        _sorted(blame),
        _sorted(need),
    )


@torch.no_grad()
def _losses(one: Pass) -> Tensor:
    """Return `(variants, latents)` mean squared errors."""
    return (one.run().double() - one.target.double()).square().flatten(2).mean(2).cpu()


def _sorted(blocks: Sequence[BlockLoss]) -> tuple[BlockLoss, ...]:
    return tuple(sorted(blocks, key=lambda one: -one.change.value))


@dataclass(frozen=True)
class BlockBlame:
    """What switching one block of one adapter off does, both adapters being on.

    Attributes:
        adapter: `"a"` or `"b"`: whose block it is.
        block: the block.
        gain: what the other adapter gets back, as a share of its effect alone; below 0 if it loses.
        loss: what its own adapter loses, likewise; None where that was not measured.

    """

    adapter: str
    block: str
    gain: float
    loss: float | None


def worst_first(blame: Sequence[BlockBlame]) -> tuple[BlockBlame, ...]:
    """Return blame by what the other adapter gets back, the most first."""
    return tuple(sorted(blame, key=lambda one: -one.gain))


def blame_of_losses(reports: Sequence[LossReport]) -> tuple[BlockBlame, ...]:
    """Return the blame of each block from losses on the adapters' own pictures, worst first.

    An adapter's effect is by how much it lowers the loss on its own pictures; one that does not lower it says nothing.

    Args:
        reports: of a's pictures, of b's, or of both.

    """
    effects = {report.adapter: report.base.value - report.own.value for report in reports}
    needs = {
        (report.adapter, one.block): one.change.value / effects[report.adapter]
        for report in reports
        for one in report.need
        if effects[report.adapter] > 0
    }
    blame = []
    for report in reports:
        other = "b" if report.adapter == "a" else "a"
        if effects[report.adapter] > 0:
            for one in report.blame:
                gain = one.change.value / effects[report.adapter]
                blame.append(BlockBlame(other, one.block, gain, needs.get((other, one.block))))
    return worst_first(blame)
