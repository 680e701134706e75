"""The presentation of `bwlab analyze norms`: one adapter's weights by block, kind of module, cell and module."""

from __future__ import annotations

from collections.abc import Sequence

from bwlab.tables import Cell, Column, Row, Table, columns_of
from bwlab.terminal import counted
from bwlab_analysis.measures import BlockMetric
from bwlab_analysis.report.numbers import (
    count_cell,
    error_lines,
    group_values,
    left_out_lines,
    measure_cell,
    measure_column,
    relative_text,
    share_cell,
    words_of,
)
from bwlab_analysis.report.presentation import BlockMap, Item, Presentation, Section
from bwlab_analysis.weights.norms import GroupNorms, NormsReport


def present_norms(report: NormsReport, cells: bool = False, modules: bool = False) -> Presentation:
    """Return the presentation of one adapter's weights; with tables by cell if `cells`, and by module if `modules`."""
    tables = [_groups_table("block", report.blocks, report), _groups_table("kind", report.kinds, report)]
    if cells:
        tables.append(_groups_table("cell", report.cells, report))
    if modules:
        tables.append(_modules_table(report))
    summary = f"{report.file}: {counted(report.total.modules, 'module')}, block scheme {report.scheme}"
    conclusion: list[Item] = [summary, _block_map(report)]
    if report.base is not None:
        conclusion.append(f"Of the base: delta norm / norm of the weights that the adapter changes, in {report.base}.")
    if report.empty_blocks:
        conclusion.append(f"Blocks without a module: {', '.join(report.empty_blocks)}.")
    conclusion += [*left_out_lines(report.file.name, report.left_out), *error_lines(report.errors)]
    details = (Section("Weights by block and by kind of module", tuple(tables)),)
    return Presentation(f"Weights of {report.file}", Section("Summary", tuple(conclusion)), details)


def _groups_table(head: str, groups: Sequence[GroupNorms], report: NormsReport) -> Table:
    columns = (
        *columns_of(head, "modules", "rank", "delta norm"),
        *_base_columns(report),
        Column("energy"),
        *(measure_column(metric.name) for metric in report.metrics),
    )
    rows = tuple(_group_row(group, report) for group in groups)
    return Table(columns, rows, totals=(_group_row(report.total, report),))


def _group_row(group: GroupNorms, report: NormsReport) -> Row:
    low, high = group.ranks
    return (
        Cell(group.name),
        count_cell(group.modules),
        Cell(str(low) if low == high else f"{low}-{high}", high),
        Cell(f"{group.norm:.4g}", group.norm),
        *_base_cells(group, report),
        share_cell(group.share),
        *(measure_cell(metric.name, group.measures[metric.name]) for metric in report.metrics),
    )


def _modules_table(report: NormsReport) -> Table:
    rows = tuple(
        (
            Cell(module.name),
            count_cell(module.ranks[0]),
            Cell(f"{module.norm:.4g}", module.norm),
            *_base_cells(module, report),
        )
        for module in report.modules
    )
    return Table((*columns_of("module", "rank", "delta norm"), *_base_columns(report)), rows)


def _base_columns(report: NormsReport) -> tuple[Column, ...]:
    return () if report.base is None else (Column("of the base"),)


def _base_cells(group: GroupNorms, report: NormsReport) -> Row:
    return () if report.base is None else (Cell(relative_text(group.relative), group.relative),)


def _block_map(report: NormsReport) -> BlockMap:
    shares = {"energy share": {group.name: group.share for group in report.blocks if group.share is not None}}
    relative = {group.name: group.relative for group in report.blocks if group.relative is not None}
    return BlockMap({**({"of the base": relative} if relative else {}), **shares, **_metrics_by_block(report)})


def _metrics_by_block(report: NormsReport) -> dict[str, dict[str, float]]:
    groups = [(group.name, group.measures) for group in report.blocks]
    metrics: Sequence[BlockMetric] = report.metrics
    return {words_of(metric.name): group_values(groups, metric.name) for metric in metrics}
