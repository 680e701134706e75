"""Where two adapters act in a base, and what each leaves of the other, beside random adapters of the same norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab_analysis.activations.inputs import TIMESTEPS, Inputs
from bwlab_analysis.activations.losses import BlockBlame, worst_first
from bwlab_analysis.activations.passes import Pass, passes
from bwlab_analysis.activations.variants import (
    BASE,
    BOTH,
    A,
    B,
    Group,
    Variants,
    beside_random,
    blocks_of,
    pair_variants,
    random_like,
    random_name,
    without,
)
from bwlab_analysis.measures import ALL_TIMES, PREDICTION, BlockAtTimestep, Measured

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


DRAWS = 5
PAIR = (BASE, A, B, BOTH)

MEASURES = ("effect_a", "effect_b", "alignment", "retention_a", "retention_b", "interaction")


@dataclass(frozen=True)
class PlaceEffects:
    """One block at one timestep.

    Attributes:
        block: or `"prediction"`, the UNet's output.
        timestep: or `"all"`.
        measures: those of `this module` by name, each beside random adapters; None where there is
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
        """Return what was found at a block (or `"prediction"`) and timestep (or `"all"`)."""
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
    variants = pair_variants(a, b, random_a, random_b, knock_outs)
    sums = _Sums(variants, len(random_a), len(random_b), knock_outs)
    for one in passes(pipe, scheme, (a, b), variants, inputs, timesteps, sums.groups()):
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
    sums.add_predictions(one, one.run(lambda told: sums.add(one, told.block, told.variant)))


class _Sums:
    """Gathers the inner products of all variants."""

    def __init__(self, variants: Variants, random_a: int, random_b: int, knock_outs: bool) -> None:
        # The base, one in a's place, one in b's place, and both of these -> what its sums are called.
        self._pairs = {PAIR: BOTH}
        for draw in range(random_a):
            names = (BASE, random_name(A, draw, alone=True), B, random_name(A, draw, alone=False))
            self._pairs[names] = f"{A}{draw}"
        for draw in range(random_b):
            names = (BASE, A, random_name(B, draw, alone=True), random_name(B, draw, alone=False))
            self._pairs[names] = f"{B}{draw}"
        self._found: dict[BlockAtTimestep, dict[str, PairSums]] = {}
        knocked = zip((A, B), variants.adapters[:2], strict=True) if knock_outs else ()
        # One block of one adapter off, the other adapter off and on -> the adapter and the block.
        self._knocked = {
            (without(name, block, alone=True), without(name, block, alone=False)): (name, block)
            for name, one in knocked
            for block in blocks_of(one)
        }
        self._changed = dict.fromkeys(self._knocked.values(), (0.0, 0.0))
        self._predictions: dict[int, list[Tensor]] = {}

    def groups(self) -> list[Group]:
        """Return the variants that are compared, the pair itself first."""
        return [*self._pairs, *self._knocked]

    def add(self, one: Pass, block: str, variant: Callable[[int], Tensor]) -> None:
        """Take in one place of a pass, given a function from a variant's index to its activations."""
        for group in one.groups:
            if group in self._pairs:
                new = pair_sums(*(variant(one.names.index(name)) for name in group))
                for place in ((block, one.time), (block, ALL_TIMES)):
                    kept = self._found.setdefault(place, {})
                    name = self._pairs[group]
                    kept[name] = kept.get(name, PairSums()) + new

    def add_predictions(self, one: Pass, output: Tensor) -> None:
        """Take in the UNet's output `(variants, latents, ...)`, and what it loses with single blocks off."""
        self.add(one, PREDICTION, lambda index: output[index])
        values = dict(zip(one.names, output.double(), strict=True))
        if PAIR in one.groups:
            self._predictions.setdefault(one.time, []).append(torch.stack([values[name] for name in PAIR]))
        # Of the same latents, from an earlier pass where that held more of them, or fewer.
        base, a, b, both = torch.cat(self._predictions[one.time], dim=1)[:, one.rows]
        for group in one.groups:
            if group in self._knocked:
                name, block = self._knocked[group]
                alone, other = (a, b) if name == A else (b, a)
                left, beside = (values[variant] for variant in group)
                gained = ((beside - left) - (both - alone)) * (other - base)
                lost = (alone - left) * (alone - base)
                gain, loss = self._changed[name, block]
                self._changed[name, block] = (gain + float(gained.sum()), loss + float(lost.sum()))

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
            for (name, block), (gain, loss) in self._changed.items()
        ]
        return worst_first(blamed)

    def _measures(self, found: Mapping[str, PairSums]) -> dict[str, Measured | None]:
        return {name: self._measured(name, found) for name in MEASURES}

    def _measured(self, name: str, found: Mapping[str, PairSums]) -> Measured | None:
        """Return a measure beside its null: for what a keeps, b is replaced; for what b keeps, a is; else both in turn."""
        value = getattr(found[BOTH], name)
        if value is None:
            return None
        replaced = {"retention_a": (B,), "retention_b": (A,), "effect_a": (A,), "effect_b": (B,)}.get(name, (A, B))
        null = [
            drawn
            for key, sums in found.items()
            if key != BOTH and key[0] in replaced and (drawn := getattr(sums, name)) is not None
        ]
        return beside_random(value, null)


@dataclass(frozen=True)
class PairSums:
    """Inner products, summed over latents and positions, that all measures of a pair are made of."""

    base: float = 0.0
    a: float = 0.0
    b: float = 0.0
    across: float = 0.0
    a_kept: float = 0.0
    b_kept: float = 0.0
    beyond: float = 0.0

    def __add__(self, other: PairSums) -> PairSums:
        mine, theirs = vars(self), vars(other)
        return PairSums(**{field.name: mine[field.name] + theirs[field.name] for field in fields(self)})

    @property
    def effect_a(self) -> float | None:
        """`|ha - h0| / |h0|`; None where the base is 0."""
        return _root_ratio(self.a, self.base)

    @property
    def effect_b(self) -> float | None:
        """`|hb - h0| / |h0|`; None where the base is 0."""
        return _root_ratio(self.b, self.base)

    @property
    def alignment(self) -> float | None:
        """`cos(ha - h0, hb - h0)`, -1..1; None where either has no effect."""
        return self.across / (self.a * self.b) ** 0.5 if self.a > 0 and self.b > 0 else None

    @property
    def retention_a(self) -> float | None:
        """The share of a's effect that is left beside b; None where a has none."""
        return self.a_kept / self.a if self.a > 0 else None

    @property
    def retention_b(self) -> float | None:
        """The share of b's effect that is left beside a; None where b has none."""
        return self.b_kept / self.b if self.b > 0 else None

    @property
    def interaction(self) -> float | None:
        """`|hab - ha - hb + h0| / (|ha - h0| + |hb - h0|)`; None where neither has an effect."""
        both = self.a**0.5 + self.b**0.5
        return self.beyond**0.5 / both if both > 0 else None


def pair_sums(base: Tensor, with_a: Tensor, with_b: Tensor, with_both: Tensor) -> PairSums:
    """Return the sums over activations of one shape, all of the same latents."""
    h0, ha, hb, hab = (tensor.double().flatten() for tensor in (base, with_a, with_b, with_both))
    a, b = ha - h0, hb - h0
    beyond = hab - ha - hb + h0
    return PairSums(
        base=_dot(h0, h0),
        a=_dot(a, a),
        b=_dot(b, b),
        across=_dot(a, b),
        a_kept=_dot(hab - hb, a),
        b_kept=_dot(hab - ha, b),
        beyond=_dot(beyond, beyond),
    )


def _dot(one: Tensor, other: Tensor) -> float:
    return float(torch.dot(one, other))


def _root_ratio(part: float, whole: float) -> float | None:
    return (part / whole) ** 0.5 if whole > 0 else None
