"""What one adapter changes in every block at every timestep, beside random adapters of its norms."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from bwlab.adapters.adapter import Adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab_analysis.activations.batched_unet import BlockOutput
from bwlab_analysis.activations.inputs import TIMESTEPS, Inputs
from bwlab_analysis.activations.passes import Pass, passes
from bwlab_analysis.activations.probe import as_rows, cka_of_rows
from bwlab_analysis.activations.variants import BASE, Variants, beside_random, blocks_of, random_like
from bwlab_analysis.measures import PREDICTION, Measured

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


CHANGES = ("effect", "style", "structure", "representation")
POSITIONS_A_SIDE = 16


@dataclass(frozen=True)
class BlockChange:
    """One block at one timestep; measures as in `bwlab_analysis.activations.changes`, each beside random adapters."""

    block: str
    timestep: int
    measures: Mapping[str, Measured]


@dataclass(frozen=True)
class ActivationReport:
    """What `activation_changes` found.

    Attributes:
        inputs: where the latents come from, in words.
        latents: their number.
        draws: random adapters.
        timesteps: from noise to picture.
        changed_blocks: where the adapter has layers.
        changes: every block, and the UNet's prediction, at every timestep.

    """

    inputs: str
    latents: int
    draws: int
    timesteps: tuple[int, ...]
    changed_blocks: tuple[str, ...]
    changes: tuple[BlockChange, ...]

    def at(self, block: str, timestep: int) -> BlockChange:
        """Return what was found in a block (or `"prediction"`) at a timestep."""
        return next(one for one in self.changes if (one.block, one.timestep) == (block, timestep))


def activation_changes(
    pipe: Pipeline,
    scheme: BlockScheme,
    adapter: Adapter,
    inputs: Inputs,
    timesteps: Sequence[int] = TIMESTEPS,
    draws: int = 3,
    seed: int = 0,
) -> ActivationReport:
    """Return what an adapter at scale 1 changes in every block.

    Args:
        pipe: the base; nothing of it is changed.
        scheme: its blocks.
        adapter: what is looked at.
        inputs: latents, noise and captions.
        timesteps: 0..999, at which the latents are noised.
        draws: random adapters of the same norms.
        seed: of those.

    """
    drawn = [random_like(adapter, pipe.unet, seed + 1 + draw) for draw in range(draws if blocks_of(adapter) else 0)]
    adapters = (adapter, *drawn)
    gates = [(0.0,) * len(adapters)]
    gates += [tuple(float(place == on) for place in range(len(adapters))) for on in range(len(adapters))]
    names = (BASE, "adapter", *(f"random {draw}" for draw in range(len(drawn))))
    variants = Variants(adapters, names, tuple(gates))
    found: dict[tuple[str, int], dict[str, list[Piece]]] = {}
    for one in passes(pipe, scheme, (adapter,), variants, inputs, timesteps, [(BASE, name) for name in names[1:]]):
        _look(one, found)
    measured = tuple(BlockChange(*place, _measures(list(of_place.values()))) for place, of_place in found.items())
    return ActivationReport(inputs.source, len(inputs), len(drawn), tuple(timesteps), blocks_of(adapter), measured)


@dataclass(frozen=True)
class Piece:
    """Some latents at one place: their number, and what a variant changes of them."""

    latents: int
    changes: Mapping[str, float]


@torch.no_grad()
def _look(one: Pass, found: dict[tuple[str, int], dict[str, list[Piece]]]) -> None:
    def hear(told: BlockOutput) -> None:
        at_place = found.setdefault((told.block, one.time), {})
        base = told.variant(one.names.index(BASE))
        for _, name in one.groups:
            changed = changes(base, told.variant(one.names.index(name)))
            at_place.setdefault(name, []).append(Piece(len(one.noisy), changed))

    output = one.run(hear)
    hear(BlockOutput(PREDICTION, output, tuple(range(len(output)))))


def _measures(variants: Sequence[Sequence[Piece]]) -> dict[str, Measured]:
    """Return each measure's mean over the adapter's latents, which come first, beside the random adapters'."""
    measured = {}
    for name in CHANGES:
        adapter, *null = (
            statistics.fmean((one.changes[name] for one in pieces), [one.latents for one in pieces])
            for pieces in variants
        )
        measured[name] = beside_random(adapter, null)
    return measured


def changes(base: Tensor, adapted: Tensor) -> dict[str, float]:
    """Return what an adapter changed in activations `(latents, channels, h, w)`, each 0 for no change:

    - `effect`: `|ha - h0| / |h0|`
    - `style`: relative change of the channels' Gram matrices (Gatys et al. 2016, equation 3), mean over latents
    - `structure`: root mean square change of the cosines between positions (self-similarity, Shechtman and Irani
      2007; Tumanyan et al. 2022, arXiv 2201.00424), 0..2, on at most 16 x 16 positions
    - `representation`: 1 - linear CKA (Kornblith et al. 2019), 0..1
    """
    h0, ha = base.double(), adapted.double()
    one, other = (as_rows(tensor)[0] for tensor in (h0, ha))
    return {
        "effect": _ratio((ha - h0).norm(), h0.norm()),
        "style": _relative(grams(h0), grams(ha)),
        "structure": float((self_similarity(ha) - self_similarity(h0)).square().mean().sqrt()),
        "representation": max(0.0, 1.0 - cka_of_rows(one - one.mean(0), other - other.mean(0))),
    }


def grams(activations: Tensor) -> Tensor:
    """Return each latent's Gram matrix of channels, `(latents, channels, channels)`, divided by the positions."""
    features = activations.flatten(2)
    return features @ features.mT / features.shape[-1]


def self_similarity(activations: Tensor) -> Tensor:
    """Return the cosines between positions, `(latents, positions, positions)`, on at most 16 x 16 pooled positions.

    The mean over positions is taken off first: else one large channel makes all positions alike.
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
