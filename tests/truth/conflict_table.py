"""Compare bwlab's conflict table with a second implementation: `python -m tests.truth.conflict_table A B [C ...]`.

The second one is `tests/truth/dense.py`: it multiplies every delta out, and takes minutes for files of the size of
Stable Diffusion. Every pair of the files is compared; both numbers are printed, and the largest difference of each
measure. The exit code is 1 if a difference is larger than the tolerance that docs/analysis.md states.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from bwlab_analysis import analyze
from tests.truth import dense

TOLERANCES = {
    "shared": 0.0,
    "energy_share_a": 2e-6,  # of a squared norm, whose own is 1e-6
    "energy_share_b": 2e-6,
    "cosine": 1e-7,
    "cosine_random_sd": 1e-7,
    "out_overlap": 1e-5,
    "in_overlap": 1e-5,
    "smallest_angle": 6e-3,  # 1e-4 radians
    "sign_conflict": 1e-6,
}
"""Largest difference by measure; of overlaps, as a share of the value."""


@dataclass(frozen=True)
class Difference:
    """One number of the conflict table by both implementations."""

    group: str
    measure: str
    bwlab: float
    dense: float

    @property
    def size(self) -> float:
        """The difference that the tolerance bounds."""
        return abs(self.bwlab - self.dense) / (abs(self.dense) if self.measure.endswith("overlap") else 1.0)

    @property
    def is_too_large(self) -> bool:
        return not self.size <= TOLERANCES[self.measure]


def differences(a: Path, b: Path) -> list[Difference]:
    """Return every number of the conflict table of two files by both implementations; they have the same groups."""
    document = analyze.conflict(a, b, signs=True, warn=lambda text: None).document()
    groups = {group["name"]: _numbers(group) for group in (*_listed(document["blocks"]), document["total"])}
    table = dense.conflict_table(dense.deltas(a), dense.deltas(b))
    if {group: set(values) for group, values in groups.items()} != {
        group: set(values) for group, values in table.items()
    }:
        raise AssertionError(f"other groups or measures: {groups} and {table}")
    return [
        Difference(group, measure, groups[group][measure], value)
        for group, values in table.items()
        for measure, value in values.items()
    ]


def _listed(entries: Any) -> list[Any]:
    return list(entries)


def _numbers(group: Any) -> dict[str, float]:
    numbers = {name: float(group[name]) for name in ("energy_share_a", "energy_share_b", "shared")}
    if group["shared"]:
        measured = ("cosine", "out_overlap", "in_overlap", "smallest_angle", "sign_conflict")
        numbers |= {name: group[name]["value"] for name in measured}
        numbers["cosine_random_sd"] = group["cosine"]["random_sd"]
    return numbers


def lines(found: list[Difference]) -> Iterator[str]:
    """Yield the numbers of a pair of files, and the largest difference of each measure."""
    yield f"{'group':<6} {'measure':<18} {'bwlab':>22} {'dense':>22} {'difference':>11}"
    for one in found:
        mark = "  too large" if one.is_too_large else ""
        yield f"{one.group:<6} {one.measure:<18} {one.bwlab:>22.15g} {one.dense:>22.15g} {one.size:>11.1e}{mark}"
    for measure, tolerance in TOLERANCES.items():
        largest = max((one.size for one in found if one.measure == measure), default=0.0)
        yield f"largest difference of {measure}: {largest:.1e} (tolerance {tolerance:.0e})"


def main(files: list[str]) -> int:
    """Compare all pairs of files; return 1 if a difference is too large."""
    if len(files) < 2:
        print(__doc__)  # noqa: T201
        return 2
    failed = False
    for a, b in combinations(map(Path, files), 2):
        found = differences(a, b)
        print(f"{a} and {b}", *lines(found), sep="\n", flush=True)  # noqa: T201
        failed |= any(one.is_too_large for one in found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
