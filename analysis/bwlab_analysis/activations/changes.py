"""The changes that one adapter makes in every block at every timestep, beside random adapters of equal norms."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from bwlab.adapters.adapter import Adapter
from bwlab.base.models import denoiser_of
from bwlab.blocks.scheme import BlockScheme
from bwlab_analysis.activations.batched_denoiser import BlockOutput, adapted_blocks
from bwlab_analysis.activations.inputs import TIMESTEPS, Inputs
from bwlab_analysis.activations.passes import BASE, Pass, Variants, passes
from bwlab_analysis.activations.probe import cka_of_rows
from bwlab_analysis.activations.random_adapters import beside_random, random_adapters
from bwlab_analysis.measures import PREDICTION, Measured

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.terminal import OnProgress


CHANGES = ("effect", "style", "structure", "representation")
POSITIONS_A_SIDE = 16


@dataclass(frozen=True)
class BlockChange:
    """One block at one timestep: each measure of `changes` beside that of random adapters."""

    block: str
    timestep: int
    measures: Mapping[str, Measured]


@dataclass(frozen=True)
class ActivationReport:
    """The changes that an adapter makes in every block at every timestep.

    Attributes:
        inputs: source of the latents, in words.
        latents: number of latents.
        draws: number of random adapters.
        timesteps: timesteps from noise to image.
        changed_blocks: blocks in which the adapter has layers.
        changes: changes in every block and in the UNet's prediction, at every timestep.

    """

    inputs: str
    latents: int
    draws: int
    timesteps: tuple[int, ...]
    changed_blocks: tuple[str, ...]
    changes: tuple[BlockChange, ...]

    def at(self, block: str, timestep: int) -> BlockChange:
        """Return the measures of a block (or `"prediction"`) at a timestep."""
        return next(change for change in self.changes if (change.block, change.timestep) == (block, timestep))


def activation_changes(
    pipe: Pipeline,
    scheme: BlockScheme,
    adapter: Adapter,
    inputs: Inputs,
    timesteps: Sequence[int] = TIMESTEPS,
    draws: int = 3,
    seed: int = 0,
    on_pass: OnProgress | None = None,
) -> ActivationReport:
    """Return the changes that an adapter at scale 1 makes in every block.

    Args:
        pipe: the base, which is not changed.
        scheme: block scheme of the base.
        adapter: the adapter.
        inputs: latents, noise and captions.
        timesteps: timesteps 0..999 at which noise is added to the latents.
        draws: number of random adapters of the same norms.
        seed: seed of the random adapters.
        on_pass: function that shows the progress.

    """
    drawn = random_adapters(adapter, denoiser_of(pipe), draws, seed + 1)
    adapters = (adapter, *drawn)
    scales = [(0.0,) * len(adapters)]
    scales += [tuple(float(index == on) for index in range(len(adapters))) for on in range(len(adapters))]
    names = (BASE, "adapter", *(f"random {draw}" for draw in range(len(drawn))))
    variants = Variants(adapters, names, tuple(scales))
    gathered: dict[tuple[str, int], dict[str, list[LatentChanges]]] = {}
    groups = [(BASE, name) for name in names[1:]]
    for batch in passes(pipe, scheme, (adapter,), variants, inputs, timesteps, groups, on_pass):
        _add_pass(batch, gathered)
    measured = tuple(
        BlockChange(*block_at_time, _measures(list(variant.values()))) for block_at_time, variant in gathered.items()
    )
    return ActivationReport(inputs.source, len(inputs), len(drawn), tuple(timesteps), adapted_blocks(adapter), measured)


@dataclass(frozen=True)
class LatentChanges:
    """The changes by a variant in some latents at one block and timestep, and the number of these latents."""

    latents: int
    changes: Mapping[str, float]


@torch.no_grad()
def _add_pass(batch: Pass, gathered: dict[tuple[str, int], dict[str, list[LatentChanges]]]) -> None:
    def add(output: BlockOutput) -> None:
        by_variant = gathered.setdefault((output.block, batch.time), {})
        base = output.variant(batch.names.index(BASE))
        for _, name in batch.groups:
            changed = changes(base, output.variant(batch.names.index(name)))
            by_variant.setdefault(name, []).append(LatentChanges(len(batch.noisy), changed))

    prediction = batch.run(add)
    add(BlockOutput(PREDICTION, prediction, tuple(range(len(prediction)))))


def _measures(variants: Sequence[Sequence[LatentChanges]]) -> dict[str, Measured]:
    """Return each measure's mean over the adapter's latents, which come first, beside the random adapters'."""
    measured = {}
    for name in CHANGES:
        adapter, *null = (
            statistics.fmean((some.changes[name] for some in batches), [some.latents for some in batches])
            for batches in variants
        )
        measured[name] = beside_random(adapter, null)
    return measured


def changes(base: Tensor, adapted: Tensor) -> dict[str, float]:
    """Return the measures of a change of activations `(latents, channels, h, w)`, means over the latents; 0: no change.

    Each latent is measured by itself, so the means do not depend on how many are in one pass.

    - `effect`: `|ha - h0| / |h0|`
    - `style`: relative change of the channels' Gram matrices (Gatys et al. 2016, equation 3)
    - `structure`: root mean square change of the cosines between positions (self-similarity, Shechtman and Irani
      2007; Tumanyan et al. 2022, arXiv 2201.00424), 0..2, on at most 16 x 16 positions
    - `representation`: 1 - linear CKA over the positions (Kornblith et al. 2019), 0..1
    """
    h0, ha = base.double(), adapted.double()
    return {
        "effect": _relative(h0, ha),
        "style": _relative(grams(h0), grams(ha)),
        "structure": float((self_similarity(ha) - self_similarity(h0)).square().mean((1, 2)).sqrt().mean()),
        "representation": statistics.fmean(starmap(_unlike, zip(h0, ha, strict=True))),
    }


def _unlike(before: Tensor, after: Tensor) -> float:
    """Return 1 - linear CKA of one latent's activations `(channels, h, w)`, over its positions."""
    one, other = (activations.flatten(1).T for activations in (before, after))
    return max(0.0, 1.0 - cka_of_rows(one - one.mean(0), other - other.mean(0)))


def grams(activations: Tensor) -> Tensor:
    """Return each latent's Gram matrix of channels, `(latents, channels, channels)`, divided by the positions."""
    features = activations.flatten(2)
    return features @ features.mT / features.shape[-1]


def self_similarity(activations: Tensor) -> Tensor:
    """Return the cosines between positions, `(latents, positions, positions)`, on at most 16 x 16 pooled positions.

    The mean over positions is subtracted first; otherwise one large channel would make all positions alike.
    """
    side = min(POSITIONS_A_SIDE, *activations.shape[-2:])
    pooled = functional.adaptive_avg_pool2d(activations, side).flatten(2)
    unit = functional.normalize(pooled - pooled.mean(-1, keepdim=True), dim=1)
    return unit.mT @ unit


def _relative(before: Tensor, after: Tensor) -> float:
    ratios = [_ratio((new - old).norm(), old.norm()) for old, new in zip(before, after, strict=True)]
    return sum(ratios) / len(ratios)


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) > 0 else 0.0
