"""What one adapter changes in every block at every timestep, beside random adapters of its norms."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bwlab.adapters.adapter import Adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab_analysis.function.change import CHANGES, changes
from bwlab_analysis.function.inputs import TIMESTEPS, Inputs
from bwlab_analysis.function.passes import Pass, passes
from bwlab_analysis.function.random_adapters import beside_random, random_like
from bwlab_analysis.function.variants import BASE, Variants, blocks_of
from bwlab_analysis.gates import BlockOutput
from bwlab_analysis.places import PREDICTION
from bwlab_analysis.registry import Measured

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline


@dataclass(frozen=True)
class BlockChange:
    """One block at one timestep; measures as in `bwlab_analysis.function.change`, each beside random adapters."""

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
        """Return what was found in a block (or ``"prediction"``) at a timestep."""
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
