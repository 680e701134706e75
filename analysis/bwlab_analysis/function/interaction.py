"""Where two adapters act in a base, and what each leaves of the other, beside random adapters of the same norms."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab.components import in_unet
from bwlab_analysis.function.blame import BlockBlame, worst_first
from bwlab_analysis.function.effects import MEASURES, PairSums, pair_sums
from bwlab_analysis.function.inputs import TIMESTEPS, Inputs
from bwlab_analysis.function.passes import Pass, passes
from bwlab_analysis.function.random_adapters import random_like
from bwlab_analysis.function.variants import (
    BASE,
    BOTH,
    A,
    B,
    Variants,
    blocks_of,
    pair_variants,
    random_name,
    without,
)
from bwlab_analysis.gates import BlockOutput
from bwlab_analysis.places import ALL_TIMES, PREDICTION, Place
from bwlab_analysis.registry import Measured

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline

DRAWS = 5


@dataclass(frozen=True)
class PlaceEffects:
    """One block at one timestep.

    Attributes:
        block: or ``"prediction"``, the UNet's output.
        timestep: or ``"all"``.
        measures: those of `bwlab_analysis.function.effects` by name, each beside random adapters; None where there is
            no answer.
    """

    block: str
    timestep: int | str
    measures: Mapping[str, Measured | None]


@dataclass(frozen=True)
class InteractionReport:
    """What `interaction` found.

    Attributes:
        inputs: where the latents come from, in words.
        latents: their number.
        draws: random adapters for each null.
        timesteps: that were looked at.
        places: every block and the prediction, over all timesteps and at each.
        blame: each block of each adapter, worst first.
    """

    inputs: str
    latents: int
    draws: int
    timesteps: tuple[int, ...]
    places: tuple[PlaceEffects, ...]
    blame: tuple[BlockBlame, ...]

    def place(self, block: str, timestep: int | str = ALL_TIMES) -> PlaceEffects:
        """Return what was found at a block (or ``"prediction"``) and timestep (or ``"all"``)."""
        return next(one for one in self.places if (one.block, one.timestep) == (block, timestep))


def interaction(
    pipe: Pipeline,
    scheme: BlockScheme,
    a: Adapter,
    b: Adapter,
    inputs: Inputs,
    timesteps: Sequence[int] = TIMESTEPS,
    draws: int = DRAWS,
    seed: int = 0,
    knock_outs: bool = True,
) -> InteractionReport:
    """Return what two adapters do at every block, alone and together.

    Both act at scale 1. Text encoders with layers of an adapter read the captions anew for it; in the nulls and
    knock-outs the text is that of the variant they stand for.

    Args:
        pipe: the base; nothing of it is changed.
        scheme: its blocks.
        a, b: the pair.
        inputs: latents, noise and captions.
        timesteps: 0..999, at which the latents are noised.
        draws: random adapters for each null; 0 gives none.
        seed: of the random adapters.
        knock_outs: whether each block is switched off too, for the blame; it is empty otherwise.
    """
    random_a = [random_like(a, pipe.unet, seed + 1 + draw) for draw in range(draws)] if blocks_of(a) else []
    random_b = [random_like(b, pipe.unet, seed + 101 + draw) for draw in range(draws)] if blocks_of(b) else []
    in_a, in_b = ([one.only(in_unet) for one in drawn] for drawn in (random_a, random_b))
    variants = pair_variants(a, b, in_a, in_b, knock_outs)
    sums = _Sums(variants, len(random_a), len(random_b), knock_outs)
    for one in passes(pipe, scheme, (a, b), variants, inputs, timesteps):
        _look(one, sums)
    return InteractionReport(
        inputs.source,
        len(inputs),
        draws,
        tuple(timesteps),
        sums.places(),
        sums.blame(),
    )


@torch.no_grad()
def _look(one: Pass, sums: _Sums) -> None:
    output = one.run(lambda told: sums.add_block(told, one.time))
    sums.add(PREDICTION, one.time, lambda index: output[index])
    sums.add_knock_outs(output)


class _Sums:
    """Gathers the inner products of all variants."""

    def __init__(self, variants: Variants, random_a: int, random_b: int, knock_outs: bool) -> None:
        self.variants = variants
        at = variants.index
        self._pairs: dict[str, tuple[int, int, int, int]] = {BOTH: (at(BASE), at(A), at(B), at(BOTH))}
        for draw in range(random_a):
            names = (random_name(A, draw, alone=True), random_name(A, draw, alone=False))
            self._pairs[f"{A}{draw}"] = (at(BASE), at(names[0]), at(B), at(names[1]))
        for draw in range(random_b):
            names = (random_name(B, draw, alone=True), random_name(B, draw, alone=False))
            self._pairs[f"{B}{draw}"] = (at(BASE), at(A), at(names[0]), at(names[1]))
        self._found: dict[Place, dict[str, PairSums]] = {}
        knocked = zip((A, B), variants.adapters[:2], strict=True) if knock_outs else ()
        self._knocked = {(name, block): (0.0, 0.0) for name, one in knocked for block in blocks_of(one)}

    def add_block(self, told: BlockOutput, time: int) -> None:
        """Take in a block's output for every variant."""
        self.add(told.block, time, told.variant)

    def add(self, block: str, time: int, variant: Callable[[int], Tensor]) -> None:
        """Take in one place, given a function from a variant's index to its activations."""
        for name, (base, a, b, both) in self._pairs.items():
            new = pair_sums(variant(base), variant(a), variant(b), variant(both))
            for key in ((block, time), (block, ALL_TIMES)):
                kept = self._found.setdefault(key, {})
                kept[name] = kept.get(name, PairSums()) + new

    def add_knock_outs(self, output: Tensor) -> None:
        """Take in the UNet's output ``(variants, latents, ...)`` with single blocks switched off."""
        at, values = self.variants.index, output.double()
        base, both = values[at(BASE)], values[at(BOTH)]
        for (name, block), (gain, loss) in self._knocked.items():
            alone, other = values[at(name)], values[at(B if name == A else A)]
            left, beside = values[at(without(name, block, alone=True))], values[at(without(name, block, alone=False))]
            gained = ((beside - left) - (both - alone)) * (other - base)
            lost = (alone - left) * (alone - base)
            self._knocked[name, block] = (gain + float(gained.sum()), loss + float(lost.sum()))

    def places(self) -> tuple[PlaceEffects, ...]:
        """Return every place, over all timesteps first."""
        order = sorted(self._found, key=lambda place: place[1] != ALL_TIMES)
        return tuple(PlaceEffects(*place, self._measures(self._found[place])) for place in order)

    def blame(self) -> tuple[BlockBlame, ...]:
        """Return each block of each adapter, the one whose removal gives the other most first."""
        whole = self._found[PREDICTION, ALL_TIMES][BOTH]
        sizes, others = {A: whole.a, B: whole.b}, {A: whole.b, B: whole.a}
        if not whole.a > 0 or not whole.b > 0:
            return ()
        blamed = [
            BlockBlame(name, block, gain / others[name], loss / sizes[name])
            for (name, block), (gain, loss) in self._knocked.items()
        ]
        return worst_first(blamed)

    def _measures(self, found: Mapping[str, PairSums]) -> dict[str, Measured | None]:
        return {name: self._measured(name, found) for name in MEASURES}

    def _measured(self, name: str, found: Mapping[str, PairSums]) -> Measured | None:
        """A measure beside its null: for what a keeps, b is replaced; for what b keeps, a is; else both in turn."""
        value = getattr(found[BOTH], name)
        if value is None:
            return None
        replaced = {"retention_a": (B,), "retention_b": (A,), "effect_a": (A,), "effect_b": (B,)}.get(name, (A, B))
        null = [
            drawn
            for key, sums in found.items()
            if key != BOTH and key[0] in replaced and (drawn := getattr(sums, name)) is not None
        ]
        if len(null) < 2:
            return Measured(value)
        return Measured(value, statistics.fmean(null), statistics.stdev(null))
