"""The presentation of `bwlab analyze conflict` for three or more adapters: how much each keeps beside the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from bwlab.tables import NO_VALUE, Cell, Column, Table, columns_of
from bwlab_analysis.measures import PREDICTION, Measured
from bwlab_analysis.report.answer import (
    cost_text,
    kept_text,
    measured_text,
    percent_text,
    retained_text,
    weights_only_text,
)
from bwlab_analysis.report.conflict import inputs_note, measure_cells, present_conflict, short_heads
from bwlab_analysis.report.numbers import beside_random_cell, count_cell, heat_table, measure_column
from bwlab_analysis.report.presentation import Item, Presentation, Section, Verbatim

if TYPE_CHECKING:
    from bwlab_analysis.activations.losses import LossReport
    from bwlab_analysis.activations.pair import Compared, Cost, PairInBase
    from bwlab_analysis.weights.conflict import ConflictReport

    InBase = Sequence[tuple[ConflictReport, PairInBase]]

OfOne = TypeVar("OfOne", "LossReport", "Cost")
"""The type of a result for one adapter beside another."""
COMPARED_WEIGHTS = ("cosine", "out_overlap", "in_overlap")
KEPT = "Share of what it learned from its images that the adapter in a row keeps beside the adapter in a column"
RETAINED = "Share of its effect that the adapter in a row retains beside the adapter in a column"
HINT = (
    "Effects on activations alone hardly predicted the fidelity that pairs lost in bwlab's study (docs/study.md); "
    "losses on training images did a little (docs/analysis-in-a-base.md)."
)
ALL_OTHERS = "all others"


def present_conflicts(
    names: Mapping[Path, str], pairs: Sequence[Compared], together: Mapping[Path, LossReport], cells: bool = False
) -> Presentation:
    """Return the presentation of all pairs of several adapters; each pair is a part of it.

    Args:
        names: short names of the adapters by file.
        pairs: every pair.
        together: losses on the training images of each adapter beside all others.
        cells: whether the parts have tables by cell.

    """
    in_base = [(report, pair) for report, pair in pairs if pair is not None]
    title, parts = "Conflicts of " + ", ".join(names.values()), tuple(present_conflict(*pair, cells) for pair in pairs)
    if not in_base:
        conclusion = Section("Answer", (weights_only_text(list(names.values())),))
        section = Section("Weights of all pairs", (_files(names), _weights_of_pairs(pairs)))
        return Presentation(title, conclusion, (section,), parts, short=True)
    losses = _by_names(in_base, lambda pair: pair.losses)
    lines = [_worst_line(name, names, losses, in_base) for name in names.values()]
    lines += [
        kept_text(report, names[file], "all the others together", "the same number of random adapters of their norms")
        for file, report in together.items()
    ]
    lines += dict.fromkeys(measured_text(pair.measured) for _, pair in in_base if pair.measured is not None)
    matrix: Item = _kept(list(names.values()), losses, together, names) if losses else _retained(names, in_base)
    details = [
        Section("Numbers", (matrix,)),
        Section("The base's prediction with all pairs", _effects(names, in_base, bool(losses)), detail=True),
        Section("Weights of all pairs", (_files(names), _weights_of_pairs(pairs)), detail=True),
    ]
    more = "The blocks of every pair are in --json and --report, or give only two files."
    return Presentation(title, Section("Answer", (*lines, HINT, more)), tuple(details), parts, short=True)


def _files(names: Mapping[Path, str]) -> Verbatim:
    return Verbatim(tuple(f"{name} = {file}" for file, name in names.items()))


def _by_names(pairs: InBase, of: Callable[[PairInBase], Iterable[OfOne]]) -> dict[tuple[str, str], OfOne]:
    """Return the results for one adapter beside another, by the names of both."""
    by_names = {}
    for report, pair in pairs:
        for result in of(pair):
            own, other = report.names if result.adapter == "a" else report.names[::-1]
            by_names[own, other] = result
    return by_names


def _costs(pair: PairInBase) -> tuple[Cost, ...]:
    return () if pair.measured is None else pair.measured.costs


def _retentions(pairs: InBase) -> dict[tuple[str, str], Measured | None]:
    """Return the effects that one adapter retains beside another, by the names of both."""
    values: dict[tuple[str, str], Measured | None] = {}
    for report, pair in pairs:
        measures, (a, b) = pair.interaction.at(PREDICTION).measures, report.names
        values |= {(a, b): measures["retention_a"], (b, a): measures["retention_b"]}
    return values


def _worst_line(
    name: str, names: Mapping[Path, str], losses: Mapping[tuple[str, str], LossReport], pairs: InBase
) -> str:
    """Return what an adapter loses beside the one that costs it most.

    The loss is that in generated images if they were scored, otherwise that by denoising losses or, without training
    images, by effects.
    """
    costs = {other: cost for (of, other), cost in _by_names(pairs, _costs).items() if of == name}
    shares = {other: cost.lost.mean for other, cost in costs.items() if cost.scored and cost.lost is not None}
    if shares:
        worst = max(shares, key=shares.__getitem__)
        return cost_text(costs[worst], name, worst)
    own = {other: report for (of, other), report in losses.items() if of == name}
    if own:
        worst = max(own, key=lambda other: own[other].harm.value)
        return kept_text(own[worst], name, worst, f"random adapters of {worst}'s norms")
    retained = {other: measured for (of, other), measured in _retentions(pairs).items() if of == name}
    values = {other: measured.value for other, measured in retained.items() if measured is not None}
    worst = min(values, key=values.__getitem__) if values else next(iter(retained))
    return retained_text(retained[worst], name, worst)


def _kept(
    every: Sequence[str],
    losses: Mapping[tuple[str, str], LossReport],
    together: Mapping[Path, LossReport],
    names: Mapping[Path, str],
) -> Table:
    values = {**losses, **{(names[file], ALL_OTHERS): report for file, report in together.items()}}
    columns = (Column("adapter", align="left"), *map(Column, short_heads(every)), Column(ALL_OTHERS))
    rows = tuple(
        (Cell(own), *(_kept_cell(values.get((own, other))) for other in (*every, ALL_OTHERS))) for own in every
    )
    note = (
        "+-: standard errors over images. In brackets: the same beside random adapters of the others' norms. An "
        "adapter without images, or whose gain is in doubt, has no number."
    )
    return Table(columns, rows, title=KEPT, note=note)


def _kept_cell(report: LossReport | None) -> Cell:
    if report is None or (kept := report.kept) is None:
        return NO_VALUE
    random = f"({percent_text(fmean(report.random_kept))})" if report.random_kept else ""
    return Cell(percent_text(kept.value, kept.error), kept.value, random, min(1.0, max(-1.0, kept.value)))


def _effects(names: Mapping[Path, str], pairs: InBase, with_matrix: bool) -> tuple[Item, ...]:
    """Return the measures of all pairs on the base's prediction, with the matrix of retentions if it is requested."""
    rows = []
    for report, pair in pairs:
        measures = pair.interaction.at(PREDICTION).measures
        values = [beside_random_cell(measures[name], 2) for name in ("alignment", "interaction")]
        rows.append((Cell(", ".join(report.names)), *values))
    table = Table(columns_of("pair", "alignment", "interaction"), tuple(rows))
    return (table, _retained(names, pairs)) if with_matrix else (table,)


def _retained(names: Mapping[Path, str], pairs: InBase) -> Table:
    every = list(names.values())
    heads = dict(zip(every, short_heads(every), strict=True))
    values = {(own, heads[other]): value for (own, other), value in _retentions(pairs).items()}
    note = f"{inputs_note(pairs[0][1].interaction)} 1: the adapter retains its whole effect."
    return heat_table(RETAINED, "adapter", every, list(heads.values()), values, note)


def _weights_of_pairs(pairs: Sequence[Compared]) -> Table:
    measures = [measure for measure in pairs[0][0].measures if measure.name in COMPARED_WEIGHTS]
    columns = (*columns_of("pair", "shared modules"), *(measure_column(measure.name) for measure in measures))
    rows = tuple(
        (Cell(", ".join(report.names)), count_cell(report.total.shared), *measure_cells(report.total, measures))
        for report, _ in pairs
    )
    return Table(columns, rows)
