"""The reports as tables of at most 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from bwlab.terminal import new_table
from bwlab_analysis.measures import BlockMetric, ConflictMeasure, Measured
from bwlab_analysis.report.numbers import (
    NONE,
    angle_text,
    cosine_text,
    multiple_text,
    plain_text,
    rank_text,
    relative_text,
    share_text,
    signs_text,
)
from bwlab_analysis.report.verdict import verdict
from bwlab_analysis.weights.adapter_weights import LeftOut
from bwlab_analysis.weights.conflict import ConflictReport, GroupConflict
from bwlab_analysis.weights.norms import GroupNorms, NormsReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


Group = TypeVar("Group", GroupNorms, GroupConflict)
Measure = TypeVar("Measure", BlockMetric, ConflictMeasure)
EXACTLY_0 = "exactly 0"
# So many measures fit: beside the norms, and in a table of their own.
BESIDE_NORMS, ABREAST = 2, 4

FORMATS: dict[str, Callable[[Measured], str]] = {
    "effective_rank": rank_text,
    "top1_share": lambda top: f"{100 * top.value:.0f} % ({100 * top.details['flat']:.0f} %)",
    "cosine": cosine_text,
    "out_overlap": multiple_text,
    "in_overlap": multiple_text,
    "smallest_angle": angle_text,
    "sign_conflict": signs_text,
}
HEADS = {
    "top1_share": "top-1 share\n(flat spectrum)",
    "cosine": "cosine\n(random pair)",
    "out_overlap": "out overlap\n(random pair)",
    "in_overlap": "in overlap\n(random pair)",
    "smallest_angle": "angle, deg\n(random)",
    "sign_conflict": "sign conflict\n(random pair)",
}


def print_norms(console: Console, report: NormsReport, cells: bool, modules: bool = False) -> None:
    """Print what `bwlab analyze norms` tells; by cell and by module too if asked."""
    console.print(f"{report.file}: {report.total.modules} modules, block scheme {report.scheme}", soft_wrap=True)
    if report.base is not None:
        console.print(
            f"Of the base: delta norm / norm of the weights that it changes, in {report.base}.", soft_wrap=True
        )
    for head, groups in {"block": report.blocks, "kind": report.kinds, "cell": report.cells if cells else ()}.items():
        if groups:
            console.print(_norms_table(head, groups, report))
            for metrics in _chunks(report.metrics[BESIDE_NORMS:]):
                console.print(_extra_norms_table(head, groups, report, metrics))
    if modules:
        console.print(_modules_table(report))
    if report.empty_blocks:
        console.print(f"Blocks without a module: {', '.join(report.empty_blocks)}.")
    _print_left_out(console, report.file.name, report.left_out)


def print_conflict(console: Console, report: ConflictReport, cells: bool) -> None:
    """Print what `bwlab analyze conflict` tells."""
    total = report.total
    console.print(f"a = {report.file_a}: {total.modules_a} modules", soft_wrap=True)
    console.print(f"b = {report.file_b}: {total.modules_b} modules", soft_wrap=True)
    console.print(
        f"Block scheme {report.scheme}; {total.shared} modules are changed by both: "
        f"{share_text(report.shared_share_a)} of a's energy, {share_text(report.shared_share_b)} of b's."
    )
    for head, groups in {"block": report.blocks, "cell": report.cells if cells else ()}.items():
        if groups:
            console.print(_energy_table(head, groups, total))
            for measures in _chunks(report.measures):
                console.print(_measures_table(head, groups, total, measures))
    for line in verdict(report):
        console.print(line)
    _print_left_out(console, report.file_a.name, report.left_out_a)
    _print_left_out(console, report.file_b.name, report.left_out_b)


def _chunks(measures: Sequence[Measure]) -> list[Sequence[Measure]]:
    return [measures[start : start + ABREAST] for start in range(0, len(measures), ABREAST)]


def _norms_table(head: str, groups: Sequence[GroupNorms], report: NormsReport) -> Table:
    metrics = report.metrics[:BESIDE_NORMS]
    heads = ["modules", "rank", "delta norm", *_base_heads(report), "energy"]
    table = new_table([head, *heads, *measure_heads(metrics)])
    _fill(
        table, groups, report.total, lambda group: [*_norms_row(group, report), *measure_cells(metrics, group.measures)]
    )
    return table


def _modules_table(report: NormsReport) -> Table:
    table = new_table(["module", "rank", "delta norm", *_base_heads(report)])
    for module in report.modules:
        table.add_row(module.name, str(module.ranks[0]), f"{module.norm:.4g}", *_base_cells(module, report))
    return table


def _extra_norms_table(
    head: str, groups: Sequence[GroupNorms], report: NormsReport, metrics: Sequence[BlockMetric]
) -> Table:
    table = new_table([head, *measure_heads(metrics)])
    _fill(table, groups, report.total, lambda group: [group.name, *measure_cells(metrics, group.measures)])
    return table


def _norms_row(group: GroupNorms, report: NormsReport) -> list[str]:
    low, high = group.ranks
    rank = str(low) if low == high else f"{low}-{high}"
    of_base = _base_cells(group, report)
    return [group.name, str(group.modules), rank, f"{group.norm:.4g}", *of_base, share_text(group.share)]


def _base_heads(report: NormsReport) -> list[str]:
    return [] if report.base is None else ["of the base"]


def _base_cells(group: GroupNorms, report: NormsReport) -> list[str]:
    return [] if report.base is None else [relative_text(group.relative)]


def _energy_table(head: str, groups: Sequence[GroupConflict], total: GroupConflict) -> Table:
    table = new_table([head, "modules of a", "of b", "of both", "energy of a", "energy of b", "joint energy"])
    _fill(table, groups, total, _energy_row)
    return table


def _energy_row(group: GroupConflict) -> list[str]:
    counts = (group.modules_a, group.modules_b, group.shared)
    return [group.name, *map(str, counts), *map(share_text, (group.share_a, group.share_b, group.joint_share))]


def _measures_table(
    head: str, groups: Sequence[GroupConflict], total: GroupConflict, measures: Sequence[ConflictMeasure]
) -> Table:
    table = new_table([head, *measure_heads(measures)])
    _fill(table, groups, total, lambda group: [group.name, *measures_row(group, measures)])
    return table


def measures_row(group: GroupConflict, measures: Sequence[ConflictMeasure]) -> list[str]:
    """Return the cells of measures; a group without shared modules has a cosine of exactly 0 and no others."""
    if group.disjoint:
        return [EXACTLY_0 if measure.name == "cosine" else NONE for measure in measures]
    return measure_cells(measures, group.measures)


def _fill(table: Table, groups: Iterable[Group], total: Group, row: Callable[[Group], list[str]]) -> None:
    for group in groups:
        table.add_row(*row(group))
    table.add_section()
    table.add_row(*row(total))


def measure_heads(measures: Iterable[BlockMetric | ConflictMeasure]) -> list[str]:
    """Return the column heads of measures."""
    return [HEADS.get(measure.name, measure.name.replace("_", " ")) for measure in measures]


def measure_cells(
    measures: Iterable[BlockMetric | ConflictMeasure], values: Mapping[str, Measured | None]
) -> list[str]:
    return [measure_cell(measure.name, values[measure.name]) for measure in measures]


def measure_cell(name: str, measured: Measured | None) -> str:
    """Return a measure's value as a table shows it."""
    return NONE if measured is None else FORMATS.get(name, plain_text)(measured)


def _print_left_out(console: Console, file: str, left_out: Iterable[LeftOut]) -> None:
    for part in left_out:
        console.print(f"Not in these numbers, from {file}: {part.line}.")
