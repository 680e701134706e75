"""The presentation of `bwlab analyze conflict`: two or more adapters, by their weights and in a base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypeAlias

from bwlab.tables import EMPTY, NO_VALUE, Cell, Column, Row, Table, columns_of
from bwlab.terminal import counted, letters
from bwlab_analysis.measures import ALL_TIMES, PREDICTION, ConflictMeasure, Measured
from bwlab_analysis.report.advice import advice_items
from bwlab_analysis.report.norms import group_values, left_out_lines
from bwlab_analysis.report.numbers import (
    beside_random_cell,
    count_cell,
    decimals_of_column,
    heat_table,
    measure_cell,
    measure_column,
    number_cell,
    number_text,
    share_cell,
    share_text,
    words_of,
)
from bwlab_analysis.report.presentation import BlockMap, Item, Presentation, Section, Verbatim
from bwlab_analysis.report.verdict import WEIGHTS_ONLY, conflict_score_text, loss_warnings, weights_verdict
from bwlab_analysis.weights.conflict import ConflictReport, GroupConflict

if TYPE_CHECKING:
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.activations.losses import Loss, LossReport
    from bwlab_analysis.activations.pair import PairInBase
    from bwlab_analysis.measures import BlockBlame

Compared: TypeAlias = "tuple[ConflictReport, PairInBase | None]"
"""Two adapters compared by their weights, and in a base if one was given."""

EFFECTS = {
    "effect_a": "effect of a",
    "effect_b": "effect of b",
    "alignment": "alignment",
    "retention_a": "a retained",
    "retention_b": "b retained",
    "interaction": "interaction",
}
"""Column heads of the measures of activations."""
EXACTLY_0 = Cell("exactly 0", 0.0)
BLAMED_ON_TERMINAL = 8
COMPARED_WEIGHTS = ("cosine", "out_overlap", "in_overlap")
RETAINED = "Share of its effect that the adapter in a row retains beside the adapter in a column"


def present_conflict(report: ConflictReport, in_base: PairInBase | None, cells: bool = False) -> Presentation:
    """Return the presentation of two adapters; with tables by cell if `cells`."""
    title, weights = f"{report.file_a} (a) and {report.file_b} (b)", _weights_section(report, cells)
    if in_base is None:
        conclusion = Section("Conflict", (WEIGHTS_ONLY, BlockMap(_weights_by_block(report))))
        return Presentation(title, conclusion, (weights,))
    interaction, losses = in_base.interaction, in_base.losses
    conclusion = Section(
        "Conflict",
        (
            BlockMap({**_effects_by_block(interaction), **_weights_by_block(report)}),
            *loss_warnings(losses),
            conflict_score_text(losses),
            *advice_items(in_base.blame, in_base.scheme),
        ),
    )
    details = (weights, _activations_section(interaction), _times_section(interaction), *_losses_sections(losses))
    return Presentation(title, conclusion, details)


def present_conflicts(files: Sequence[Path], pairs: Sequence[Compared]) -> Presentation:
    """Return the presentation of all pairs of several adapters; each pair is a part of it."""
    names = dict(zip(files, letters(len(files)), strict=True))
    listing = Verbatim(tuple(f"{letter} = {file}" for file, letter in names.items()))
    details = [Section("Weights of all pairs", (listing, _weights_of_pairs(names, pairs)))]
    in_base = [(report, pair) for report, pair in pairs if pair is not None]
    if in_base:
        note = _inputs_note(in_base[0][1].interaction)
        tables = (_effects_of_pairs(names, in_base, note), _retained(names, in_base))
        details.append(Section("The base's prediction with all pairs", tables))
        conclusion = "The blocks of every pair and the advice are in --json and --report, or give only two files."
    else:
        conclusion = f"The blocks of every pair are in --json and --report, or give only two files. {WEIGHTS_ONLY}"
    parts = tuple(present_conflict(report, pair) for report, pair in pairs)
    return Presentation("Pairs of adapters", Section("Conflict", (conclusion,)), tuple(details), parts)


def _weights_section(report: ConflictReport, cells: bool) -> Section:
    total = report.total
    files = (
        f"a = {report.file_a}: {counted(total.modules_a, 'module')}",
        f"b = {report.file_b}: {counted(total.modules_b, 'module')}",
    )
    summary = (
        f"Block scheme {report.scheme}; {counted(total.shared, 'module')} changed by both: "
        f"{share_text(report.shared_share_a)} of a's energy, {share_text(report.shared_share_b)} of b's."
    )
    groups = {"block": report.blocks, **({"cell": report.cells} if cells else {})}
    tables = [table for head, rows in groups.items() for table in _weights_tables(head, rows, report)]
    left_out = [
        *left_out_lines(report.file_a.name, report.left_out_a),
        *left_out_lines(report.file_b.name, report.left_out_b),
    ]
    return Section("Weights", (Verbatim(files), summary, *tables, *weights_verdict(report), *left_out))


def _weights_tables(head: str, groups: Sequence[GroupConflict], report: ConflictReport) -> tuple[Table, Table]:
    """Return the table of modules and energies, and the table of the measures."""
    heads = columns_of(head, "modules of a", "of b", "of both", "energy of a", "of b", "of both")
    energies = Table(heads, tuple(map(_energy_row, groups)), totals=(_energy_row(report.total),))
    columns = (Column(head, align="left"), *(measure_column(measure.name) for measure in report.measures))

    def row(group: GroupConflict) -> Row:
        return (Cell(group.name), *_measure_cells(group, report.measures))

    return energies, Table(columns, tuple(map(row, groups)), totals=(row(report.total),))


def _energy_row(group: GroupConflict) -> Row:
    counts = (group.modules_a, group.modules_b, group.shared)
    shares = (group.share_a, group.share_b, group.joint_share)
    return (Cell(group.name), *map(count_cell, counts), *map(share_cell, shares))


def _measure_cells(group: GroupConflict, measures: Sequence[ConflictMeasure]) -> Row:
    """Return the cells of measures; a group without shared modules has a cosine of exactly 0 and no other measures."""
    if group.disjoint:
        return tuple(EXACTLY_0 if measure.name == "cosine" else NO_VALUE for measure in measures)
    return tuple(measure_cell(measure.name, group.measures[measure.name]) for measure in measures)


def _weights_by_block(report: ConflictReport) -> dict[str, dict[str, float]]:
    groups = [(group.name, group.measures) for group in report.blocks]
    return {f"{words_of(measure.name)} (weights)": group_values(groups, measure.name) for measure in report.measures}


def _activations_section(report: InteractionReport) -> Section:
    whole = [effects for effects in report.effects if effects.timestep == ALL_TIMES]
    sizes = [effects.measures[name] for effects in whole for name in ("effect_a", "effect_b")]
    digits = decimals_of_column(measured.value for measured in sizes if measured is not None)
    rows = tuple(
        (
            Cell(effects.block),
            *(
                beside_random_cell(effects.measures[name], digits if name.startswith("effect") else 2)
                for name in EFFECTS
            ),
        )
        for effects in whole
    )
    table = Table(columns_of("block", *EFFECTS.values()), rows, note=_inputs_note(report))
    return Section("Activations in the base", (table, *_blame_items(report.blame)))


def _inputs_note(report: InteractionReport) -> str:
    times = f"{'timestep' if len(report.timesteps) == 1 else 'timesteps'} {', '.join(map(str, report.timesteps))}"
    null = " In brackets: with a random adapter of the same norms in place of one adapter." if report.draws else ""
    return f"{counted(report.latents, 'latent')} at {times} ({report.inputs}).{null}"


def _blame_items(blame: Sequence[BlockBlame]) -> tuple[Item, ...]:
    if not blame:
        return ("One of the adapters has no effect on these latents, so there is no block to blame.",)
    rows = tuple(
        (Cell(f"{block.adapter} in {block.block}"), share_cell(block.gain), share_cell(block.loss)) for block in blame
    )
    heads = columns_of("switched off", "gives the other", "costs its own")
    note = "Shares of each adapter's effect on the prediction; below 0: the adapter is worse off without the block."
    return (Table(heads, rows, title="Blame", note=note, terminal_rows=BLAMED_ON_TERMINAL),)


def _times_section(report: InteractionReport) -> Section:
    blocks = list(dict.fromkeys(effects.block for effects in report.effects))
    heads = [f"t {time}" for time in report.timesteps]
    tables = []
    for name in ("retention_a", "retention_b", "interaction"):
        values = {(effects.block, f"t {effects.timestep}"): effects.measures[name] for effects in report.effects}
        tables.append(heat_table(EFFECTS[name].capitalize(), "block", blocks, heads, values))
    return Section("Activations by timestep", tuple(tables), page_only=True)


def _effects_by_block(report: InteractionReport) -> dict[str, dict[str, float]]:
    groups = [(effects.block, effects.measures) for effects in report.effects if effects.timestep == ALL_TIMES]
    maps = {head: group_values(groups, name) for name, head in EFFECTS.items()}
    for adapter in ("a", "b"):
        blamed = {block.block: block.gain for block in report.blame if block.adapter == adapter}
        maps[f"blame of {adapter} (activations)"] = blamed
    return maps


def _losses_sections(reports: Sequence[LossReport]) -> tuple[Section, ...]:
    if not reports:
        return ()
    heads = columns_of("images of", "base", "alone", "both", "harm", "random", "of its gain")
    inputs = "; ".join(f"{report.adapter}: {report.inputs}" for report in reports)
    note = (
        f"Images: {inputs}. Harm: the rise of the loss that the other adapter causes; random: the rise that random "
        "adapters cause; of its gain: the harm as a share of the adapter's own gain. In brackets: standard errors."
    )
    table = Table(heads, tuple(map(_loss_row, reports)), note=note)
    return (Section("Denoising loss on each adapter's own training images", (table,)),)


def _loss_row(report: LossReport) -> Row:
    losses = (report.base, report.own, report.both, report.harm)
    random = fmean(report.random_harm) if report.random_harm else None
    lost = report.gain_lost
    share = Cell(EMPTY if lost is None else f"{100 * lost:.0f} %", lost)
    return (Cell(report.adapter), *map(_loss_cell, losses), number_cell(random, 3), share)


def _loss_cell(loss: Loss) -> Cell:
    return number_cell(loss.value, 3, "" if math.isnan(loss.error) else f"({number_text(loss.error, 3)})")


def _weights_of_pairs(names: Mapping[Path, str], pairs: Sequence[Compared]) -> Table:
    measures = [measure for measure in pairs[0][0].measures if measure.name in COMPARED_WEIGHTS]
    columns = (*columns_of("pair", "shared modules"), *(measure_column(measure.name) for measure in measures))
    rows = tuple(
        (Cell(_pair_name(names, report)), count_cell(report.total.shared), *_measure_cells(report.total, measures))
        for report, _ in pairs
    )
    return Table(columns, rows)


def _effects_of_pairs(
    names: Mapping[Path, str], pairs: Sequence[tuple[ConflictReport, PairInBase]], note: str
) -> Table:
    rows = []
    for report, pair in pairs:
        measures = pair.interaction.at(PREDICTION).measures
        values = [beside_random_cell(measures[name], 2) for name in ("alignment", "interaction")]
        rows.append((Cell(_pair_name(names, report)), *values))
    return Table(columns_of("pair", "alignment", "interaction"), tuple(rows), note=note)


def _retained(names: Mapping[Path, str], pairs: Sequence[tuple[ConflictReport, PairInBase]]) -> Table:
    values: dict[tuple[str, str], Measured | None] = {}
    for report, pair in pairs:
        a, b, measures = names[report.file_a], names[report.file_b], pair.interaction.at(PREDICTION).measures
        values |= {(a, b): measures["retention_a"], (b, a): measures["retention_b"]}
    every = list(names.values())
    return heat_table(RETAINED, "adapter", every, every, values, "1: the adapter retains its whole effect.")


def _pair_name(names: Mapping[Path, str], report: ConflictReport) -> str:
    return f"{names[report.file_a]}, {names[report.file_b]}"
