"""The contract of block metrics and of conflict measures, clause by clause, on random deltas of low rank.

Both reduce a module to a few numbers and combine the numbers of several modules, so both keep the same clauses.
"""

from __future__ import annotations

import math
import re
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from bwlab.linalg.factored import Array, FactoredMatrix, Spectrum
from bwlab.linalg.pair import FactorPair
from bwlab.testing.bench import require
from bwlab_analysis.measures import BlockMetric, ConflictMeasure, FailedParts, Measured, ModuleParts

NEAR = 1e-6
# Shapes with different primes, since square matrices hide transposes: (out, in, rank).
SHAPES = ((11, 7, 3), (13, 45, 2), (5, 17, 5), (19, 23, 1))
LARGE = (3001, 2003, 3)
LARGEST_SHARE = 0.25
"""Memory that a measure may use on a large module, of that which the module would need if it was multiplied out."""
NAME = re.compile(r"[a-z][a-z0-9_]*")
TAKEN = frozenset(
    {"name", "modules", "modules_a", "modules_b", "rank_min", "rank_max", "norm", "energy_share", "shared", "disjoint"}
    | {"energy_share_a", "energy_share_b", "joint_energy_share", "base_norm", "relative", "errors"}
)
"""Other keys of the tables' JSON (`bwlab_analysis.report.documents`)."""

Delta: TypeAlias = FactoredMatrix


@dataclass(frozen=True)
class WeightsBench:
    """The material of a clause: a block metric or a conflict measure, and adapters of four modules each.

    Attributes:
        measure: what is checked.

    """

    measure: BlockMetric | ConflictMeasure

    @cached_property
    def modules(self) -> list[list[Delta]]:
        """The deltas of each module: one for a metric, those of two adapters for a measure."""
        generator = np.random.default_rng(0)
        return [[random_delta(generator, shape) for _ in range(self.adapters)] for shape in SHAPES]

    @property
    def adapters(self) -> int:
        """The number of adapters: 1 for a block metric, 2 for a conflict measure."""
        return 1 if isinstance(self.measure, BlockMetric) else 2

    def parts(self, deltas: Sequence[Delta]) -> ModuleParts:
        """Return the numbers of a module."""
        if isinstance(self.measure, BlockMetric):
            return self.measure.parts_of(Spectrum(deltas[0]))
        return self.measure.parts_of(FactorPair(deltas[0], deltas[1]))

    def value(self, modules: Sequence[Sequence[Delta]]) -> Measured | None:
        """Return the value of several modules together."""
        return self.measure.value_of([self.parts(deltas) for deltas in modules])


WeightsClause: TypeAlias = Callable[[WeightsBench], None]


def its_name_can_be_a_column(bench: WeightsBench) -> None:
    """The name is one word of lower-case letters, digits and `_` that the tables do not use; the summary is a line."""
    name, summary = bench.measure.name, bench.measure.summary
    require(NAME.fullmatch(name) is not None, f"the name {name!r} is no such word")
    require(name not in TAKEN, f"the tables have another column or key {name}")
    require(summary.strip() != "" and "\n" not in summary, "the summary is not one line")


def values_are_finite(bench: WeightsBench) -> None:
    """The numbers of each module, and the value of one module and of several, are finite numbers."""
    for deltas in bench.modules:
        _require_finite(f"a module of the shape {deltas[0].shape}", bench.parts(deltas))
        _require_value(f"a block of one module of the shape {deltas[0].shape}", bench.value([deltas]))
    value = bench.value(bench.modules)
    _require_value(f"a block of {len(bench.modules)} modules", value)
    require(value is not None, f"there is no value for {len(bench.modules)} ordinary modules")


def extreme_modules_raise_nothing(bench: WeightsBench) -> None:
    """Zero, tiny, huge, equal and opposite deltas, and those of one row, give a finite number or None."""
    generator = np.random.default_rng(1)
    for name, deltas in _extremes(generator):
        own = deltas[: bench.adapters]
        parts = bench.parts(own)
        _require_finite(name, parts)
        _require_value(f"a block of {name}", bench.value([own]))
        _require_value(f"a block with {name}", bench.value([*bench.modules, own]))


def inputs_are_left_as_they_were(bench: WeightsBench) -> None:
    """No number of a factor changes."""
    before = [(delta.up_factor.copy(), delta.down_factor.copy()) for deltas in bench.modules for delta in deltas]
    bench.value(bench.modules)
    after = [(delta.up_factor, delta.down_factor) for deltas in bench.modules for delta in deltas]
    same = all(
        np.array_equal(one, other)
        for pair, others in zip(before, after, strict=True)
        for one, other in zip(pair, others, strict=True)
    )
    require(same, "factors of the deltas have other numbers afterwards")


def the_same_modules_give_the_same_value(bench: WeightsBench) -> None:
    """A second call gives the same value, bit for bit."""
    first, second = bench.value(bench.modules), bench.value(bench.modules)
    _require_value("a block", first)
    require(_numbers(first) == _numbers(second), f"the value was {_shown(first)}, and is {_shown(second)}")


def the_order_of_modules_does_not_matter(bench: WeightsBench) -> None:
    """A block has the same value whatever the order in which its modules come."""
    value = bench.value(bench.modules)
    for turned in (bench.modules[::-1], [*bench.modules[2:], *bench.modules[:2]]):
        _require_near("the modules in another order", bench.value(turned), value)


def the_factors_do_not_matter(bench: WeightsBench) -> None:
    """Other factors of the same delta give the same value: scaled, mixed, wider, or without a scale beside them."""
    value = bench.value(bench.modules)
    for name, change in CHANGES.items():
        changed = [[change(delta) for delta in deltas] for deltas in bench.modules]
        _require_near(f"factors that are {name}", bench.value(changed), value)


def nothing_is_multiplied_out(bench: WeightsBench) -> None:
    """A large module is not multiplied out, unless the measure is `slow`."""
    if isinstance(bench.measure, ConflictMeasure) and bench.measure.slow:
        return
    generator = np.random.default_rng(2)
    deltas = [random_delta(generator, LARGE) for _ in range(bench.adapters)]
    bench.value(bench.modules)  # what is loaded on first use does not count
    tracemalloc.start()
    try:
        bench.value([deltas])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    dense = 8 * LARGE[0] * LARGE[1]
    found = f"a module of {LARGE[0]} x {LARGE[1]} and rank {LARGE[2]} takes {peak / 1e6:.0f} MB"
    require(peak <= LARGEST_SHARE * dense, f"{found}, as if it was multiplied out ({dense / 1e6:.0f} MB)")


WEIGHTS_CLAUSES: tuple[WeightsClause, ...] = (
    its_name_can_be_a_column,
    values_are_finite,
    extreme_modules_raise_nothing,
    inputs_are_left_as_they_were,
    the_same_modules_give_the_same_value,
    the_order_of_modules_does_not_matter,
    the_factors_do_not_matter,
    nothing_is_multiplied_out,
)


def random_delta(generator: np.random.Generator, shape: tuple[int, int, int]) -> Delta:
    """Return a random delta of a shape `(out, in, rank)`."""
    out, inner, rank = shape
    return FactoredMatrix(generator.standard_normal((out, rank)), generator.standard_normal((rank, inner)), 0.5)


def _scaled(delta: Delta) -> Delta:
    return FactoredMatrix(delta.up_factor * 8.0, delta.down_factor / 8.0, delta.scale)


def _mixed(delta: Delta) -> Delta:
    mix = np.random.default_rng(3).standard_normal((delta.inner_rank, delta.inner_rank)) + 3 * np.eye(delta.inner_rank)
    return FactoredMatrix(delta.up_factor @ mix, np.linalg.solve(mix, delta.down_factor), delta.scale)


def _without_scale(delta: Delta) -> Delta:
    return FactoredMatrix(delta.up, delta.down)


def _padded(delta: Delta) -> Delta:
    """Return the same delta with one more column of zeros and the row that it meets."""
    out, inner = delta.shape
    row: Array = np.random.default_rng(4).standard_normal((1, inner))
    up = np.concatenate([delta.up_factor, np.zeros((out, 1))], axis=1)
    return FactoredMatrix(up, np.concatenate([delta.down_factor, row]), delta.scale)


CHANGES: dict[str, Callable[[Delta], Delta]] = {
    "scaled by 8 and 1/8": _scaled,
    "mixed by a matrix and its inverse": _mixed,
    "without a scale beside them": _without_scale,
    "wider by a column of zeros": _padded,
}


def _extremes(generator: np.random.Generator) -> list[tuple[str, list[Delta]]]:
    one, other = (random_delta(generator, SHAPES[0]) for _ in range(2))
    zero = FactoredMatrix(np.zeros((11, 3)), np.zeros((3, 7)))
    row = [random_delta(generator, (1, 7, 1)) for _ in range(2)]
    return [
        ("a zero delta", [zero, one]),
        ("a zero delta of the second adapter", [one, zero]),
        ("zero deltas of both adapters", [zero, zero]),
        ("tiny deltas", [one.scaled(1e-12), other.scaled(1e-12)]),
        ("huge deltas", [one.scaled(1e12), other.scaled(1e12)]),
        ("a tiny delta beside a huge one", [one.scaled(1e-12), other.scaled(1e12)]),
        ("equal deltas", [one, one]),
        ("opposite deltas", [one, one.scaled(-1.0)]),
        ("deltas of one row", row),
    ]


def _require_finite(name: str, parts: ModuleParts) -> None:
    if isinstance(parts, FailedParts):
        require(False, f"{name}: {parts.error}")
    elif parts is not None:
        wrong = next((key for key, number in parts.items() if not math.isfinite(float(number))), None)
        require(wrong is None, f"{name}: its {wrong} is not finite")


def _require_value(name: str, value: Measured | None) -> None:
    require(value is None or not value.error, f"{name}: {value.error if value is not None else ''}")


def _require_near(name: str, got: Measured | None, expected: Measured | None) -> None:
    _require_value(name, got)
    _require_value(name, expected)
    require((got is None) == (expected is None), f"{name}: the value is {_shown(got)}, and was {_shown(expected)}")
    if got is not None and expected is not None:
        near = math.isclose(float(got.value), float(expected.value), rel_tol=NEAR, abs_tol=NEAR)
        require(near, f"{name}: the value is {_shown(got)}, and was {_shown(expected)}")


def _numbers(value: Measured | None) -> tuple[object, ...]:
    return () if value is None else (value.value, value.random, value.random_sd, tuple(sorted(value.details.items())))


def _shown(value: Measured | None) -> str:
    return "none" if value is None else f"{float(value.value):.6g}"
