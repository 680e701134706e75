"""The measures of two adapters' weights (cosine, overlaps, smallest angle, sign conflict), with their random values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bwlab.linalg.factored import EPSILON, Array, Spectrum
from bwlab.linalg.pair import FactorPair, Overlap
from bwlab_analysis.measures import ConflictMeasure, Measured, Parts
from bwlab_analysis.weights import null_distribution

ROWS_AT_ONCE = 256


def _total(modules: Sequence[Parts], name: str) -> float:
    return math.fsum(parts[name] for parts in modules)


def _cosine_parts(pair: FactorPair) -> Parts:
    energy_a, energy_b = pair.a.norm() ** 2, pair.b.norm() ** 2
    return {
        "inner": pair.inner,
        "energy_a": energy_a,
        "energy_b": energy_b,
        "variance": energy_a * energy_b * null_distribution.cosine_variance(pair.shape),
        "variance_given_inputs": null_distribution.inner_variance_given_inputs(pair),
    }


def _cosine_of_block(modules: Sequence[Parts]) -> Measured | None:
    """Return the cosine of the deltas that both have, as one long vector each; its random variance adds up."""
    norms = math.sqrt(_total(modules, "energy_a")) * math.sqrt(_total(modules, "energy_b"))
    if norms == 0.0:
        return None
    given_inputs = math.sqrt(_total(modules, "variance_given_inputs")) / norms
    return Measured(
        max(-1.0, min(1.0, _total(modules, "inner") / norms)),
        random=0.0,
        random_sd=math.sqrt(_total(modules, "variance")) / norms,
        details={"random_sd_given_inputs": given_inputs},
    )


def _overlap_parts(overlap: Overlap | None) -> Parts | None:
    if overlap is None:
        return None
    return {
        "shared": overlap.shared,
        "possible": float(min(overlap.rank_a, overlap.rank_b)),
        "expected": overlap.rank_a * overlap.rank_b / overlap.dimension,
        "variance": null_distribution.overlap_variance(overlap),
    }


def _overlap_of_block(modules: Sequence[Parts]) -> Measured:
    """Return the directions shared in all modules together, as a multiple of the number that random subspaces share."""
    expected = _total(modules, "expected")
    return Measured(
        _total(modules, "shared") / expected,
        random=1.0,
        random_sd=math.sqrt(_total(modules, "variance")) / expected,
        details={
            "fraction": _total(modules, "shared") / _total(modules, "possible"),
            "chance": expected / _total(modules, "possible"),
        },
    )


def _angle_parts(pair: FactorPair) -> Parts | None:
    overlap, angle = pair.out_overlap, pair.smallest_angle
    if overlap is None or angle is None:
        return None
    return {"angle": math.degrees(angle), "random": math.degrees(null_distribution.least_angle(overlap))}


def _angle_of_block(modules: Sequence[Parts]) -> Measured:
    least = min(modules, key=lambda parts: parts["angle"])
    return Measured(least["angle"], random=min(parts["random"] for parts in modules))


def _sign_parts(pair: FactorPair) -> Parts | None:
    """Count entries where neither delta is zero, and those where the signs differ, some rows at a time.

    Entries below the rounding error of the products count as zero.
    """
    counted = opposed = 0
    (up_a, down_a, limit_a), (up_b, down_b, limit_b) = _factors(pair.a), _factors(pair.b)
    for start in range(0, pair.shape[0], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        signs = _signs(up_a[rows] @ down_a, limit_a) * _signs(up_b[rows] @ down_b, limit_b)
        counted += int(np.count_nonzero(signs))
        opposed += int(np.count_nonzero(signs < 0))
    return {"counted": float(counted), "opposed": float(opposed)} if counted else None


def _factors(delta: Spectrum) -> tuple[Array, Array, float]:
    """Return up, down, and the size below which an entry of their product is only rounding."""
    return delta.matrix.up, delta.matrix.down, EPSILON * max(delta.matrix.shape) * delta.norm()


def _signs(values: Array, limit: float) -> Array:
    return np.where(np.abs(values) > limit, np.sign(values), 0.0)


def _signs_of_block(modules: Sequence[Parts]) -> Measured:
    counted = _total(modules, "counted")
    return Measured(
        _total(modules, "opposed") / counted,
        random=0.5,
        random_sd=null_distribution.sign_conflict_sd(counted),
        details={"entries": counted},
    )


def _overlap_measure(name: str, summary: str, overlap: Callable[[FactorPair], Overlap | None]) -> ConflictMeasure:
    return ConflictMeasure(name, summary, lambda pair: _overlap_parts(overlap(pair)), _overlap_of_block)


COSINE = ConflictMeasure(
    "cosine",
    "<a, b> / (|a| |b|) over the modules that both change: 1 the same direction, -1 the opposite one",
    _cosine_parts,
    _cosine_of_block,
)
OUT_OVERLAP = _overlap_measure(
    "out_overlap",
    "output directions that both write into, as a multiple of chance",
    lambda pair: pair.out_overlap,
)
IN_OVERLAP = _overlap_measure(
    "in_overlap",
    "input directions that both read from, as a multiple of chance; all of them: one seed initialised both",
    lambda pair: pair.in_overlap,
)
ANGLE = ConflictMeasure(
    "smallest_angle",
    "the smallest angle in degrees between the output spaces of any module; 0: a direction in common",
    _angle_parts,
    _angle_of_block,
)
SIGN_CONFLICT = ConflictMeasure(
    "sign_conflict",
    "share of entries where the deltas differ in sign (TIES, arXiv 2306.01708)",
    _sign_parts,
    _signs_of_block,
    slow=True,
)
