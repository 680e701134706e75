"""The effects of two adapters in a base, and how much of each is left beside the other or beside random adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
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
    Group,
    Pass,
    Variants,
    pair_variants,
    passes,
    random_name,
    without,
)
from bwlab_analysis.activations.random_adapters import beside_random, random_adapters
from bwlab_analysis.measures import ALL_TIMES, PREDICTION, BlockAtTimestep, BlockBlame, Measured, worst_first

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.terminal import OnProgress


DRAWS = 5
PAIR = (BASE, A, B, BOTH)

MEASURES = ("effect_a", "effect_b", "alignment", "retention_a", "retention_b", "interaction")


@dataclass(frozen=True)
class BlockEffects:
    """The effects of two adapters in one block at one timestep.

    Attributes:
        block: name of the block, or `"prediction"` for the UNet's output.
        timestep: the timestep, or `"all"`.
        measures: the `MEASURES` by name, each beside random adapters; None where there is no answer.

    """

    block: str
    timestep: int | str
    measures: Mapping[str, Measured | None]


@dataclass(frozen=True)
class InteractionReport:
    """The effects of two adapters on the activations of a base.

    Attributes:
        inputs: source of the latents, in words.
        latents: number of latents.
        draws: number of random adapters for each null.
        timesteps: timesteps from noise to image.
        effects: effects in every block and on the prediction, over all timesteps and at each timestep.
        blame: blame of each block of each adapter, the worst first.

    """

    inputs: str
    latents: int
    draws: int
    timesteps: tuple[int, ...]
    effects: tuple[BlockEffects, ...]
    blame: tuple[BlockBlame, ...]

    def at(self, block: str, timestep: int | str = ALL_TIMES) -> BlockEffects:
        """Return the measures of a block (or `"prediction"`) at a timestep (or `"all"`)."""
        return next(effect for effect in self.effects if (effect.block, effect.timestep) == (block, timestep))


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
    on_pass: OnProgress | None = None,
) -> InteractionReport:
    """Return the effects of two adapters in every block, alone and together.

    Both adapters act at scale 1. Captions are encoded anew with adapters that have layers in text encoders; nulls and
    knock-outs use the text of the variant for which they stand.

    Args:
        pipe: the base, which is not changed.
        scheme: block scheme of the base.
        a, b: the two adapters.
        inputs: latents, noise and captions.
        timesteps: timesteps 0..999 at which noise is added to the latents.
        draws: number of random adapters for each null; 0 for no null.
        seed: seed of the random adapters.
        knock_outs: whether to switch off each block too, for the blame; otherwise the blame is empty.
        on_pass: function that shows the progress.

    """
    random_a = random_adapters(a, denoiser_of(pipe), draws, seed + 1)
    random_b = random_adapters(b, denoiser_of(pipe), draws, seed + 101)
    variants = pair_variants(a, b, random_a, random_b, knock_outs)
    sums = _EffectSums(variants, inputs, len(random_a), len(random_b), knock_outs)
    for batch in passes(pipe, scheme, (a, b), variants, inputs, timesteps, sums.groups(), on_pass):
        _add_pass(batch, sums)
    return InteractionReport(inputs.source, len(inputs), draws, tuple(timesteps), sums.effects(), sums.blame())


@torch.no_grad()
def _add_pass(batch: Pass, sums: _EffectSums) -> None:
    sums.add_predictions(batch, batch.run(lambda output: sums.add(batch, output.block, output.variant)))


class _EffectSums:
    """The inner products of all variants, gathered over passes."""

    def __init__(self, variants: Variants, inputs: Inputs, random_a: int, random_b: int, knock_outs: bool) -> None:
        self._inputs = inputs
        # The variants (base, one in a's place, one in b's place, both of these) -> the key of their sums.
        self._pairs = {PAIR: BOTH}
        for draw in range(random_a):
            names = (BASE, random_name(A, draw, alone=True), B, random_name(A, draw, alone=False))
            self._pairs[names] = f"{A}{draw}"
        for draw in range(random_b):
            names = (BASE, A, random_name(B, draw, alone=True), random_name(B, draw, alone=False))
            self._pairs[names] = f"{B}{draw}"
        self._sums: dict[BlockAtTimestep, dict[str, PairSums]] = {}
        knocked = zip((A, B), variants.adapters[:2], strict=True) if knock_outs else ()
        # One block of one adapter off, the other adapter off and on -> the adapter and the block.
        self._knocked = {
            (without(name, block, alone=True), without(name, block, alone=False)): (name, block)
            for name, adapter in knocked
            for block in adapted_blocks(adapter)
        }
        self._changed = dict.fromkeys(self._knocked.values(), (0.0, 0.0))
        self._predictions: dict[int, list[Tensor]] = {}

    def groups(self) -> list[Group]:
        """Return the variants that are compared, the pair itself first."""
        return [*self._pairs, *self._knocked]

    def add(self, batch: Pass, block: str, variant: Callable[[int], Tensor]) -> None:
        """Add a block of a pass, given a function from a variant's index to its activations."""
        for group in batch.groups:
            if group in self._pairs:
                new = pair_sums(*(variant(batch.names.index(name)) for name in group))
                for time in (batch.time, ALL_TIMES):
                    sums = self._sums.setdefault((block, time), {})
                    name = self._pairs[group]
                    sums[name] = sums.get(name, PairSums()) + new

    def add_predictions(self, batch: Pass, output: Tensor) -> None:
        """Add the predictions `(variants, latents, ...)`, and the losses with single blocks off."""
        self.add(batch, PREDICTION, lambda index: output[index])
        values = dict(zip(batch.names, output.double(), strict=True))
        if PAIR in batch.groups:
            self._predictions.setdefault(batch.time, []).append(torch.stack([values[name] for name in PAIR]))
        # Knock-outs may be in later passes with other numbers of latents: take the pair's predictions of these latents.
        base, a, b, both = torch.cat(self._predictions[batch.time], dim=1)[:, batch.rows]
        for group in batch.groups:
            if group in self._knocked:
                name, block = self._knocked[group]
                alone, other = (a, b) if name == A else (b, a)
                left, beside = (values[variant] for variant in group)
                gained = ((beside - left) - (both - alone)) * (other - base)
                lost = (alone - left) * (alone - base)
                gain, loss = self._changed[name, block]
                self._changed[name, block] = (gain + float(gained.sum()), loss + float(lost.sum()))

    def effects(self) -> tuple[BlockEffects, ...]:
        """Return the effects at every block and timestep, over all timesteps first."""
        order = sorted(self._sums, key=lambda block_at_time: block_at_time[1] != ALL_TIMES)
        measures = {block_at_time: self._measures(self._sums[block_at_time]) for block_at_time in order}
        self._add_errors(measures[PREDICTION, ALL_TIMES])
        return tuple(BlockEffects(*block_at_time, values) for block_at_time, values in measures.items())

    def _add_errors(self, measures: dict[str, Measured | None]) -> None:
        """Add the standard errors over images to the retentions of the prediction, as the detail `error`."""
        sums = [torch.cat(parts, dim=1).flatten(2) for parts in self._predictions.values()]
        base, a, b, both = (torch.cat([times[index] for times in sums], dim=1) for index in range(len(PAIR)))
        for name, effect, kept in (("retention_a", a - base, both - b), ("retention_b", b - base, both - a)):
            measured = measures[name]
            if measured is not None and len(set(self._inputs.images)) > 1:
                products = (kept * effect).sum(1), effect.square().sum(1)
                error = _ratio_error(*(self._inputs.by_image(one.cpu()) for one in products))
                measures[name] = replace(measured, details={"error": error})

    def blame(self) -> tuple[BlockBlame, ...]:
        """Return the blame of each block of each adapter, starting with the largest gain of the other adapter."""
        whole = self._sums[PREDICTION, ALL_TIMES][BOTH]
        sizes, others = {A: whole.a, B: whole.b}, {A: whole.b, B: whole.a}
        if not whole.a > 0 or not whole.b > 0:
            return ()
        blamed = [
            BlockBlame(name, block, gain / others[name], loss / sizes[name])
            for (name, block), (gain, loss) in self._changed.items()
        ]
        return worst_first(blamed)

    def _measures(self, sums: Mapping[str, PairSums]) -> dict[str, Measured | None]:
        return {name: self._measured(name, sums) for name in MEASURES}

    def _measured(self, name: str, sums: Mapping[str, PairSums]) -> Measured | None:
        """Return a measure beside its null: random adapters replace b for a's retention, a for b's, or each in turn."""
        value = getattr(sums[BOTH], name)
        if value is None:
            return None
        replaced = {"retention_a": (B,), "retention_b": (A,), "effect_a": (A,), "effect_b": (B,)}.get(name, (A, B))
        null = [
            random_value
            for key, random_sums in sums.items()
            if key != BOTH and key[0] in replaced and (random_value := getattr(random_sums, name)) is not None
        ]
        return beside_random(value, null)


@dataclass(frozen=True)
class PairSums:
    """Inner products, summed over latents and positions, from which all measures of a pair are computed."""

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
        """The share of a's effect that is left beside b; None where a has no effect."""
        return self.a_kept / self.a if self.a > 0 else None

    @property
    def retention_b(self) -> float | None:
        """The share of b's effect that is left beside a; None where b has no effect."""
        return self.b_kept / self.b if self.b > 0 else None

    @property
    def interaction(self) -> float | None:
        """`|hab - ha - hb + h0| / (|ha - h0| + |hb - h0|)`; None where neither has an effect."""
        norms = self.a**0.5 + self.b**0.5
        return self.beyond**0.5 / norms if norms > 0 else None


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


def _ratio_error(parts: Tensor, wholes: Tensor) -> float:
    """Return the standard error of `sum(parts) / sum(wholes)`, `(images,)` each and two or more (delta method)."""
    residuals = parts - parts.sum() / wholes.sum() * wholes
    return float(residuals.std() / wholes.mean() / len(parts) ** 0.5)


def _dot(first: Tensor, second: Tensor) -> float:
    return float(torch.dot(first, second))


def _root_ratio(part: float, whole: float) -> float | None:
    return (part / whole) ** 0.5 if whole > 0 else None
