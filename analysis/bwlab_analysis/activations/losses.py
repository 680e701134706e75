"""The harm of one adapter to the denoising loss of another on its training images, and the blame of its blocks.

Adapter a was trained to lower the denoising loss on its images. The harm that b does to a is how far b, added to a,
raises that loss again; the blame of a block of b is how much of the harm goes away when the block is switched off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.base.models import denoiser_of
from bwlab.blocks.scheme import BlockScheme
from bwlab_analysis.activations.batched_denoiser import adapted_blocks
from bwlab_analysis.activations.inputs import TIMESTEPS, Inputs
from bwlab_analysis.activations.passes import (
    BASE,
    BOTH,
    A,
    B,
    Pass,
    Variants,
    pair_variants,
    passes,
    random_name,
    without,
)
from bwlab_analysis.activations.random_adapters import random_adapters
from bwlab_analysis.measures import BlockBlame, worst_first

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.terminal import OnProgress


@dataclass(frozen=True)
class Loss:
    """A mean over latents and timesteps, with its standard error over images; NaN for a single image."""

    value: float
    error: float


@dataclass(frozen=True)
class BlockLoss:
    """The change of the loss with both adapters when one block of one adapter is switched off."""

    block: str
    change: Loss


@dataclass(frozen=True)
class LossReport:
    """Losses on one adapter's training images (mean squared error of the UNet's prediction).

    Attributes:
        adapter: the adapter that was trained on the images, `"a"` or `"b"`.
        inputs: source of the images, in words.
        base: loss of the base alone.
        own: loss with the adapter.
        both: loss with both adapters.
        gain: gain by the adapter itself, `base - own`.
        harm: harm by the other adapter, `both - own`.
        random_harm: harm by each random adapter with the norms of the other adapter.
        gain_lost_error: standard error of `gain_lost` over images (delta method); NaN for a single image.
        blame: for each block of the other adapter, the fall of the loss without it; the most blamed block first.
        need: for each block of the adapter itself, the rise of the loss without it; the most needed block first.

    """

    adapter: str
    inputs: str
    base: Loss
    own: Loss
    both: Loss
    gain: Loss
    harm: Loss
    random_harm: tuple[float, ...]
    gain_lost_error: float
    blame: tuple[BlockLoss, ...]
    need: tuple[BlockLoss, ...]

    @property
    def gain_lost(self) -> float | None:
        """The harm as a share of the adapter's gain over the base; None if the gain is not above its standard error."""
        gains = self.gain.value > 0 and self.gain.value > self.gain.error
        return self.harm.value / self.gain.value if gains else None

    @property
    def kept(self) -> Loss | None:
        """The share of its gain that the adapter keeps beside the other one: 1 keeps all, below 0 less than nothing."""
        lost = self.gain_lost
        return None if lost is None else Loss(1 - lost, self.gain_lost_error)

    @property
    def random_kept(self) -> tuple[float, ...]:
        """The share of its gain that the adapter keeps beside each random adapter; empty if `kept` is None."""
        return () if self.kept is None else tuple(1 - harm / self.gain.value for harm in self.random_harm)

    @property
    def doubtful(self) -> bool:
        """Whether the images may be other than the training images: their loss falls by at most its standard error."""
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
    on_pass: OnProgress | None = None,
) -> LossReport:
    """Return the effect of `other` on the losses of `own` on the training images of `own`.

    Args:
        pipe: the base, which is not changed.
        scheme: block scheme of the base.
        own: the adapter that was trained on the inputs.
        other: the adapter that is added.
        inputs: latents, noise and captions of `own`'s training images.
        name: name of `own` in the report.
        timesteps: timesteps 0..999 at which noise is added to the latents.
        draws: number of random adapters in the place of `other`.
        seed: seed of the random adapters.
        knock_outs: whether to switch off each block too, for blame and need; otherwise both are empty.
        on_pass: function that shows the progress.

    """
    drawn = random_adapters(other, denoiser_of(pipe), draws, seed + 1)
    settings = [BASE, A, BOTH, *(random_name(B, draw, alone=False) for draw in range(len(drawn)))]
    blamed, needed = (adapted_blocks(adapter) if knock_outs else () for adapter in (other, own))
    settings += [without(B, block, alone=False) for block in blamed]
    settings += [without(A, block, alone=False) for block in needed]
    variants = pair_variants(own, other, (), drawn, knock_outs).only(settings)
    losses = _variant_losses(pipe, scheme, (own, other), variants, inputs, timesteps, on_pass)
    blame = [BlockLoss(block, losses.rise(without(B, block, alone=False), BOTH)) for block in blamed]
    need = [BlockLoss(block, losses.rise(BOTH, without(A, block, alone=False))) for block in needed]
    return losses.report(name, len(drawn), blame, need)


def loss_beside_all(
    pipe: Pipeline,
    scheme: BlockScheme,
    own: Adapter,
    others: Sequence[Adapter],
    inputs: Inputs,
    name: str,
    timesteps: Sequence[int] = TIMESTEPS,
    draws: int = 5,
    seed: int = 0,
    on_pass: OnProgress | None = None,
) -> LossReport:
    """Return the effect of all other adapters together on the losses of `own` on its training images.

    The arguments are those of `loss_interference`. In each random draw every other adapter is replaced by a random
    one. No blocks are switched off, so blame and need are empty.
    """
    drawn = [
        random_adapters(other, denoiser_of(pipe), draws, seed + 1 + 101 * index) for index, other in enumerate(others)
    ]
    adapters = (own, *others, *(adapter for group in drawn for adapter in group))
    on: dict[str, list[Adapter]] = {BASE: [], A: [own], BOTH: [own, *others]}
    draws = draws if any(drawn) else 0
    for draw in range(draws):
        on[random_name(B, draw, alone=False)] = [own, *(group[draw] for group in drawn if group)]
    # Compare by identity, because two adapters may be equal.
    scales = tuple(tuple(float(any(it is adapter for it in active)) for adapter in adapters) for active in on.values())
    variants = Variants(adapters, tuple(on), scales)
    losses = _variant_losses(pipe, scheme, (own, *others), variants, inputs, timesteps, on_pass)
    return losses.report(name, draws, (), ())


@dataclass(frozen=True, eq=False)
class _VariantLosses:
    """The loss of each latent in each variant, a mean over timesteps."""

    inputs: Inputs
    by_variant: Mapping[str, Tensor]

    def rise(self, before: str, after: str) -> Loss:
        """Return the rise of the loss from one variant to another."""
        return self._mean(self.by_variant[after] - self.by_variant[before])

    def report(self, name: str, draws: int, blame: Sequence[BlockLoss], need: Sequence[BlockLoss]) -> LossReport:
        gain, harm = self.rise(A, BASE), self.rise(A, BOTH)
        lost = harm.value / gain.value if gain.value else math.nan
        # The delta method: the error of a ratio of means is that of the mean residual, over the denominator.
        residuals = self.by_variant[BOTH] - self.by_variant[A] - lost * (self.by_variant[BASE] - self.by_variant[A])
        return LossReport(
            name,
            self.inputs.source,
            self._mean(self.by_variant[BASE]),
            self._mean(self.by_variant[A]),
            self._mean(self.by_variant[BOTH]),
            gain,
            harm,
            tuple(self.rise(A, random_name(B, draw, alone=False)).value for draw in range(draws)),
            self._mean(residuals).error / abs(gain.value) if gain.value else math.nan,
            _sorted(blame),
            _sorted(need),
        )

    def _mean(self, values: Tensor) -> Loss:
        images = self.inputs.by_image(values)
        error = float(images.std()) / math.sqrt(len(images)) if len(images) > 1 else math.nan
        return Loss(float(values.mean()), error)


def _variant_losses(
    pipe: Pipeline,
    scheme: BlockScheme,
    adapters: Sequence[Adapter],
    variants: Variants,
    inputs: Inputs,
    timesteps: Sequence[int],
    on_pass: OnProgress | None,
) -> _VariantLosses:
    row = {name: torch.zeros(len(inputs), dtype=torch.float64) for name in variants.names}
    groups = [(name,) for name in variants.names]
    for batch in passes(pipe, scheme, adapters, variants, inputs, timesteps, groups, on_pass):
        for variant, losses in zip(batch.names, _losses(batch), strict=True):
            row[variant][batch.rows] += losses / len(timesteps)
    return _VariantLosses(inputs, row)


@torch.no_grad()
def _losses(batch: Pass) -> Tensor:
    """Return `(variants, latents)` mean squared errors."""
    return (batch.run().double() - batch.target.double()).square().flatten(2).mean(2).cpu()


def _sorted(blocks: Sequence[BlockLoss]) -> tuple[BlockLoss, ...]:
    return tuple(sorted(blocks, key=lambda block: -block.change.value))


def blame_of_losses(reports: Sequence[LossReport]) -> tuple[BlockBlame, ...]:
    """Return the blame of each block from the losses on the adapters' training images, worst first.

    An adapter's effect is how far it lowers the loss on its images; an adapter that does not lower it blames nothing.

    Args:
        reports: losses on a's images, on b's, or on both.

    """
    effects = {report.adapter: report.base.value - report.own.value for report in reports}
    needs = {
        (report.adapter, need.block): need.change.value / effects[report.adapter]
        for report in reports
        for need in report.need
        if effects[report.adapter] > 0
    }
    blame = []
    for report in reports:
        other = "b" if report.adapter == "a" else "a"
        if effects[report.adapter] > 0:
            for change in report.blame:
                gain = change.change.value / effects[report.adapter]
                blame.append(BlockBlame(other, change.block, gain, needs.get((other, change.block))))
    return worst_first(blame)
