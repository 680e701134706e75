"""What two adapters do to one place in the UNet, alone and together, from the activations of four variants.

With ``h0`` the base's activations, ``ha`` with adapter a, ``hb`` with b and ``hab`` with both:

- effect of a: ``|ha - h0| / |h0|``
- alignment: ``cos(ha - h0, hb - h0)``, -1..1; the pull in one direction (> 0) or against each other (< 0)
- retention of a under b: ``<hab - hb, ha - h0> / |ha - h0|^2``; 1: a keeps its effect, 0: it is lost, < 0: reversed
- interaction: ``|hab - ha - hb + h0| / (|ha - h0| + |hb - h0|)``; 0: the effects add up
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


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
        """``|ha - h0| / |h0|``; None where the base is 0."""
        return _root_ratio(self.a, self.base)

    @property
    def effect_b(self) -> float | None:
        """``|hb - h0| / |h0|``; None where the base is 0."""
        return _root_ratio(self.b, self.base)

    @property
    def alignment(self) -> float | None:
        """``cos(ha - h0, hb - h0)``, -1..1; None where either has no effect."""
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
        """``|hab - ha - hb + h0| / (|ha - h0| + |hb - h0|)``; None where neither has an effect."""
        both = self.a**0.5 + self.b**0.5
        return self.beyond**0.5 / both if both > 0 else None


MEASURES = ("effect_a", "effect_b", "alignment", "retention_a", "retention_b", "interaction")


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
