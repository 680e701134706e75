"""The presentation of `bwlab analyze conflict` for two adapters, by their weights and in a base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from bwlab.tables import NO_VALUE, Cell, Column, Row, Table, columns_of
from bwlab.terminal import counted
from bwlab_analysis.measures import ALL_TIMES, PREDICTION, ConflictMeasure
from bwlab_analysis.report.advice import commands_to_copy
from bwlab_analysis.report.answer import (
    answer_lines,
    conflict_score_text,
    loss_warnings,
    measured_text,
    no_advice,
    weights_only_text,
)
from bwlab_analysis.report.numbers import (
    beside_random_cell,
    count_cell,
    decimals_of_column,
    error_lines,
    group_values,
    heat_table,
    left_out_lines,
    measure_cell,
    measure_column,
    number_cell,
    number_text,
    share_cell,
    share_text,
    times_of,
    words_of,
)
from bwlab_analysis.report.presentation import BlockMap, Item, Presentation, Section, Verbatim
from bwlab_analysis.report.verdict import weights_verdict
from bwlab_analysis.weights.conflict import ConflictReport, GroupConflict

if TYPE_CHECKING:
    from bwlab_analysis.activations.interaction import BlockEffects, InteractionReport
    from bwlab_analysis.activations.losses import LossReport
    from bwlab_analysis.activations.pair import PairInBase
    from bwlab_analysis.measures import BlockBlame

MOST_ROWS = 10
"""Rows of a table on a terminal, so that the numbers fit a screen of 24 lines."""
NOTE = "In brackets: with a random adapter of the same norms in place of one adapter."
MOST_HEAD = 24
"""Characters of an adapter's name in the head of a column."""
EFFECTS = {
    "effect_a": "effect of {a}",
    "effect_b": "effect of {b}",
    "alignment": "alignment",
    "retention_a": "{a} retained",
    "retention_b": "{b} retained",
    "interaction": "interaction",
}
"""Column heads of the measures of activations."""
MEANINGS = {
    "effect_a": "how far {a} alone moves the base's activations, as a share of their norm",
    "effect_b": "how far {b} alone moves the base's activations, as a share of their norm",
    "alignment": "cosine of the two effects; above 0: in the same direction, below 0: in opposite directions",
    "retention_a": "share of {a}'s effect that is left beside {b}; 1: all of it, 0: nothing, below 0: reversed",
    "retention_b": "share of {b}'s effect that is left beside {a}; 1: all of it, 0: nothing, below 0: reversed",
    "interaction": "how far the effects deviate from their sum; 0: they simply add up",
}
"""What the measures of activations mean, in plain words."""
LOSS_MEANINGS = {
    "base": "denoising loss of the base alone on the adapter's training images; lower is better",
    "alone": "the loss with the adapter",
    "both": "the loss with both adapters",
    "harm": "how far the other adapter raises the loss",
    "random": "how far random adapters of the other adapter's norms raise it",
    "kept": "share of the adapter's own gain over the base that is left beside the other one",
}
ANGLE = "smallest_angle"  # a rough scale, which would make the short table wider than 80 columns
EXACTLY_0 = Cell("exactly 0", 0.0)
BLAMED_ON_TERMINAL = 8


def present_conflict(
    report: ConflictReport, in_base: PairInBase | None, cells: bool = False, advice: Presentation | None = None
) -> Presentation:
    """Return the presentation of two adapters; with tables by cell if `cells`, and with `advice` if there is one."""
    title, weights = f"Conflict of {' and '.join(report.names)}", _weights_section(report)
    measures = _measures_table("block", report.blocks, report)
    few = replace(report, measures=tuple(measure for measure in report.measures if measure.name != ANGLE))
    by_cell = (_measures_table("cell", report.cells, report),) if cells else ()
    files = Verbatim((f"{report.names[0]} = {report.file_a}", f"{report.names[1]} = {report.file_b}"))
    if in_base is None:
        answer = (weights_only_text(report.names), *weights_verdict(report, by_block=False), *_left_out(report))
        conclusion = Section("Answer", (*answer, BlockMap(_weights_by_block(report))))
        table = replace(_measures_table("block", report.blocks, few), terminal_rows=MOST_ROWS)
        said = set(answer)  # the details do not repeat the answer
        items = tuple(item for item in weights.items if not isinstance(item, str) or item not in said)
        whole = replace(weights, items=(files, *items, measures))
        return Presentation(title, conclusion, (Section("Weights by block", (table, *by_cell)), whole), short=True)
    details = [
        _numbers_section(report.names, in_base),
        replace(weights, items=(files, *weights.items, measures, *by_cell), detail=not _asked_for(report, cells)),
        _activations_section(in_base.interaction, report.names),
        _times_section(in_base.interaction, report.names),
    ]
    if advice is not None:
        details += [replace(section, detail=True) for section in advice.details]
    return Presentation(title, _answer_section(report, in_base, advice), tuple(details), short=True)


def _asked_for(report: ConflictReport, cells: bool) -> bool:
    """Return whether options request measures of weights that are details otherwise."""
    return cells or any(measure.slow for measure in report.measures)


def _answer_section(report: ConflictReport, in_base: PairInBase, advice: Presentation | None) -> Section:
    lines = commands_to_copy(report, in_base)
    to_do: tuple[Item, ...] = (no_advice(), *((_to_copy(lines), Verbatim(lines)) if lines else ()))
    if advice is not None:
        to_do = advice.conclusion.items
    answer = list(answer_lines(report.names, in_base))
    warnings = loss_warnings(in_base.losses, dict(zip("ab", report.names, strict=True)))
    items = (
        *dict.fromkeys([*answer, *warnings]),  # where images were not scored, the answer has the warnings
        *(() if in_base.measured is None else (measured_text(in_base.measured),)),
        BlockMap({**_effects_by_block(in_base.interaction, report.names), **_weights_by_block(report)}),
        *(() if _scored(in_base) else (conflict_score_text(in_base.losses, report.names),)),
        *to_do,
        *_left_out(report),
    )
    return Section("Answer", items)


def _to_copy(lines: Sequence[str]) -> str:
    """Return the heading of the lines to copy."""
    if len(lines) == 1:
        return "To copy:"
    return "To copy (scales that helped most pairs of bwlab's study, then the search for scales of this pair):"


def _scored(in_base: PairInBase) -> bool:
    """Return whether generated images were scored for both adapters, so that no other measure is needed."""
    costs = () if in_base.measured is None else in_base.measured.costs
    return len([cost for cost in costs if cost.scored]) == 2


def effect_columns(names: Sequence[str], measures: Iterable[str] = EFFECTS) -> tuple[Column, ...]:
    """Return the columns of measures of activations by block, with the names of the adapters."""
    heads, (a, b) = heads_of(names), names
    columns = (Column(heads[measure], meaning=MEANINGS[measure].format(a=a, b=b)) for measure in measures)
    return (Column("block", align="left"), *columns)


def heads_of(names: Sequence[str]) -> dict[str, str]:
    """Return the column heads of the measures of activations, with the names of the adapters."""
    a, b = short_heads(names)
    return {measure: head.format(a=a, b=b) for measure, head in EFFECTS.items()}


def short_heads(names: Sequence[str]) -> list[str]:
    """Return names for heads of columns: long ones without their middle, unless that makes two of them alike.

    >>> short_heads(["fox", "the-name-of-an-adapter-at-step-1200"])
    ['fox', 'the-name-of~at-step-1200']
    """
    half = (MOST_HEAD - 1) // 2
    heads = [name if len(name) <= MOST_HEAD else f"{name[:half]}~{name[-(MOST_HEAD - half - 1) :]}" for name in names]
    return [name if heads.count(head) > 1 else head for name, head in zip(names, heads, strict=True)]


def _numbers_section(names: tuple[str, str], in_base: PairInBase) -> Section:
    """Return the numbers behind the answer: losses on training images, and retained effects by block."""
    report = in_base.interaction
    whole = [effects for effects in report.effects if effects.timestep == ALL_TIMES]
    columns = effect_columns(names, ("retention_a", "retention_b"))

    def row(effects: BlockEffects) -> Row:
        retained = (effects.measures[f"retention_{letter}"] for letter in "ab")
        return (Cell(effects.block), *(beside_random_cell(measured, 2) for measured in retained))

    blocks = (effects for effects in whole if effects.block != PREDICTION)
    rows = tuple(map(row, (report.at(PREDICTION), *blocks)))
    table = Table(columns, rows, note=NOTE if report.draws else "", terminal_rows=MOST_ROWS)
    return Section("Numbers", (*losses_tables(in_base.losses, dict(zip("ab", names, strict=True))), table))


def _weights_section(report: ConflictReport) -> Section:
    a, b = report.names
    total = report.total
    summary = (
        f"Block scheme {report.scheme}; {a} has {counted(total.modules_a, 'module')}, {b} has {total.modules_b}; "
        f"{counted(total.shared, 'module')} changed by both: {share_text(report.shared_share_a)} of {a}'s energy, "
        f"{share_text(report.shared_share_b)} of {b}'s."
    )
    short_a, short_b = short_heads(report.names)
    heads = columns_of(
        "block",
        *(f"modules of {short_a}", f"of {short_b}", "of both"),
        *(f"energy of {short_a}", f"of {short_b}", "of both"),
    )
    energies = Table(heads, tuple(map(_energy_row, report.blocks)), totals=(_energy_row(report.total),))
    return Section("Weights", (summary, energies, *weights_verdict(report)), detail=True)


def _left_out(report: ConflictReport) -> list[str]:
    parts = ((report.file_a, report.left_out_a), (report.file_b, report.left_out_b))
    lines = [line for file, left_out in parts for line in left_out_lines(file.name, left_out)]
    return [*lines, *error_lines(report.errors)]


def _measures_table(head: str, groups: Sequence[GroupConflict], report: ConflictReport) -> Table:
    measured = (replace(measure_column(measure.name), meaning=measure.summary) for measure in report.measures)
    columns = (Column(head, align="left"), *measured)

    def row(group: GroupConflict) -> Row:
        return (Cell(group.name), *measure_cells(group, report.measures))

    return Table(columns, tuple(map(row, groups)), totals=(row(report.total),))


def _energy_row(group: GroupConflict) -> Row:
    counts = (group.modules_a, group.modules_b, group.shared)
    shares = (group.share_a, group.share_b, group.joint_share)
    return (Cell(group.name), *map(count_cell, counts), *map(share_cell, shares))


def measure_cells(group: GroupConflict, measures: Sequence[ConflictMeasure]) -> Row:
    """Return the cells of measures; a group without shared modules has a cosine of exactly 0 and no other measures."""
    if group.disjoint:
        return tuple(EXACTLY_0 if measure.name == "cosine" else NO_VALUE for measure in measures)
    return tuple(measure_cell(measure.name, group.measures[measure.name]) for measure in measures)


def _weights_by_block(report: ConflictReport) -> dict[str, dict[str, float]]:
    groups = [(group.name, group.measures) for group in report.blocks]
    return {f"{words_of(measure.name)} (weights)": group_values(groups, measure.name) for measure in report.measures}


def _activations_section(report: InteractionReport, names: tuple[str, str]) -> Section:
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
    table = Table(effect_columns(names), rows, note=inputs_note(report))
    return Section("Activations in the base", (table, *_blame_items(report.blame, names)), detail=True)


def inputs_note(report: InteractionReport) -> str:
    """Return on which latents activations were measured, and what the numbers in brackets are."""
    times = f"{'timestep' if len(report.timesteps) == 1 else 'timesteps'} {', '.join(map(str, report.timesteps))}"
    return f"{counted(report.latents, 'latent')} at {times} ({report.inputs}).{' ' + NOTE if report.draws else ''}"


def _blame_items(blame: Sequence[BlockBlame], names: Sequence[str]) -> tuple[Item, ...]:
    if not blame:
        return ("One of the adapters has no effect on these latents, so there is no block to blame.",)
    named = dict(zip("ab", names, strict=True))
    rows = tuple(
        (Cell(f"{named[block.adapter]} in {block.block}"), share_cell(block.gain), share_cell(block.loss))
        for block in blame
    )
    heads = columns_of("switched off", "other gains", "own loses")
    note = "Shares of each adapter's effect on the prediction; a gain below 0 is a loss, a loss below 0 a gain."
    return (Table(heads, rows, title="Blame", note=note, terminal_rows=BLAMED_ON_TERMINAL),)


def _times_section(report: InteractionReport, names: tuple[str, str]) -> Section:
    blocks = list(dict.fromkeys(effects.block for effects in report.effects))
    heads, words = times_of(report.timesteps), heads_of(names)
    tables = []
    for name in ("retention_a", "retention_b", "interaction"):
        values = {(effects.block, f"t {effects.timestep}"): effects.measures[name] for effects in report.effects}
        tables.append(heat_table(words[name], "block", blocks, heads, values))
    return Section("Activations by timestep", tuple(tables), page_only=True)


def _effects_by_block(report: InteractionReport, names: tuple[str, str]) -> dict[str, dict[str, float]]:
    """Return the maps of a pair, conflicts first: what each loses, the blame, and then the other measures."""
    groups = [(effects.block, effects.measures) for effects in report.effects if effects.timestep == ALL_TIMES]
    heads = heads_of(names)
    maps = {}
    for measure, own, other in (("retention_a", *names), ("retention_b", *reversed(names))):
        retained = group_values(groups, measure)
        maps[f"share that {own} loses beside {other}"] = {block: 1 - value for block, value in retained.items()}
    for letter, name in zip("ab", names, strict=True):
        blamed = {block.block: block.gain for block in report.blame if block.adapter == letter}
        maps[f"blame of {name} (activations)"] = blamed
    return {**maps, **{head: group_values(groups, name) for name, head in heads.items()}}


def losses_tables(reports: Sequence[LossReport], names: Mapping[str, str]) -> tuple[Table, ...]:
    """Return a table of the losses on each adapter's training images, or nothing without any.

    Args:
        reports: losses on the images of each adapter.
        names: names of the adapters by their letters.

    """
    if not reports:
        return ()
    columns = (Column(head, meaning=meaning) for head, meaning in LOSS_MEANINGS.items())
    heads = (Column("images of", align="left"), *columns)
    note = (
        "Losses. Harm: rise of the loss by the other adapter; random: by random adapters; kept: share of the "
        "adapter's gain that is left. In brackets: standard errors."
    )
    return (Table(heads, tuple(_loss_row(report, names) for report in reports), note=note),)


def _loss_row(report: LossReport, names: Mapping[str, str]) -> Row:
    losses = (report.base.value, report.own.value, report.both.value)
    random = fmean(report.random_harm) if report.random_harm else None
    kept = report.kept
    share = NO_VALUE if kept is None else Cell(f"{100 * kept.value:.0f} %", kept.value, f"({100 * kept.error:.0f})")
    error = report.harm.error
    harm = number_cell(report.harm.value, 3, "" if math.isnan(error) else f"({number_text(error, 3)})")
    values = (number_cell(value, 3) for value in losses)
    return (Cell(names[report.adapter]), *values, harm, number_cell(random, 3), share)
