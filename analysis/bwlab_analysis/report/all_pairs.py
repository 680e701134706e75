"""The presentation of all pairs of many adapters: how many there are, and those that are nearest to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import Any

from bwlab.errors import BwlabError
from bwlab.tables import Cell, Table, columns_of
from bwlab.terminal import counted
from bwlab_analysis.measures import SCHEMA_VERSION, Json, Measured
from bwlab_analysis.report.matrix import COMPARED_WEIGHTS
from bwlab_analysis.report.numbers import count_cell, measure_cell, measure_column
from bwlab_analysis.report.pairs_file import SCHEMA, PairsFile
from bwlab_analysis.report.presentation import Presentation, Section
from bwlab_analysis.weights.all_pairs import Pair

MOST_LISTED = 20
NEAREST = "Pairs with the largest out overlap"


@dataclass(frozen=True)
class PairsSummary:
    """What a file of pairs holds of some adapters.

    Attributes:
        out: the file.
        names: short names of the adapters, in order.
        compared: number of pairs that it compares.
        measured_before: number of pairs that it held before.
        not_compared: number of pairs that cannot be compared.
        nearest: the pairs that write into the most directions in common: the numbers of the adapters, and the totals.
        unreadable: the adapters that cannot be read, with the reasons.

    """

    out: Path
    names: Sequence[str]
    compared: int
    measured_before: int
    not_compared: int
    nearest: Sequence[tuple[Pair, dict[str, Any]]]
    unreadable: Mapping[Path, BwlabError]


def nearest_pairs(file: PairsFile) -> list[tuple[Pair, dict[str, Any]]]:
    """Return the numbers and totals of the pairs that write into the most directions in common, the first the most."""
    totals = ((pair, line["total"]) for pair, line in file.pairs() if "total" in line)
    return nlargest(MOST_LISTED, totals, key=lambda entry: _overlap(entry[1]))


def _overlap(total: Mapping[str, Any]) -> float:
    measured = total.get("out_overlap")
    return -1.0 if measured is None else float(measured["value"])


def pairs_document(summary: PairsSummary) -> dict[str, Json]:
    """Return a summary as JSON: the counts, the nearest pairs, and the files that cannot be read."""
    return {
        "schema": f"{SCHEMA}.summary",
        "schema_version": SCHEMA_VERSION,
        "out": str(summary.out),
        "adapters": len(summary.names),
        "pairs": summary.compared,
        "measured_before": summary.measured_before,
        "not_compared": summary.not_compared,
        "nearest": [
            {"a": summary.names[a], "b": summary.names[b], "total": total} for (a, b), total in summary.nearest
        ],
        "unreadable": {str(path): str(error) for path, error in summary.unreadable.items()},
    }


def present_pairs(summary: PairsSummary) -> Presentation:
    """Return the counts and the table of the nearest pairs."""
    readable = len(summary.names) - len(summary.unreadable)
    lines = [f"{counted(summary.compared, 'pair')} of {counted(readable, 'adapter')} are in {summary.out}."]
    if summary.measured_before:
        verb = "was" if summary.measured_before == 1 else "were"
        lines.append(f"{counted(summary.measured_before, 'pair')} of them {verb} in it before.")
    if summary.not_compared:
        other = counted(summary.not_compared, "further pair")
        lines.append(
            f"{other} cannot be compared, for example because they are for different models; see 'error' there."
        )
    if summary.unreadable:
        lines.append(f"Adapters that cannot be read: {len(summary.unreadable)}.")
    columns = (*columns_of("pair", "shared modules"), *map(measure_column, COMPARED_WEIGHTS))
    rows = tuple(
        (Cell(f"{summary.names[a]}, {summary.names[b]}"), count_cell(total["shared"]), *_cells(total))
        for (a, b), total in summary.nearest
    )
    table = Section(NEAREST, (Table(columns, rows),))
    return Presentation("All pairs of adapters", Section("Answer", (*lines,)), (table,) if rows else (), short=True)


def _cells(total: Mapping[str, Any]) -> tuple[Cell, ...]:
    return tuple(measure_cell(name, _measured(total.get(name))) for name in COMPARED_WEIGHTS)


def _measured(document: Mapping[str, float] | None) -> Measured | None:
    """Return a measure as it was before it was written."""
    if document is None:
        return None
    details = {name: value for name, value in document.items() if name not in ("value", "random", "random_sd")}
    return Measured(document["value"], document.get("random"), document.get("random_sd"), details)
