"""Reports of a base at work as tables of at most 100 columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.terminal import counted, letters, new_table
from bwlab_analysis.measures import ALL_TIMES, PREDICTION, Measured
from bwlab_analysis.report.advice import Step, caution, notations_of, nothing_to_do, specs_of
from bwlab_analysis.report.fidelity_text import PROFILE_HEADS, PROFILES, SHARES, carriers, few_pictures, standing
from bwlab_analysis.report.numbers import (
    AT_WORK,
    LOSSES,
    NONE,
    beside,
    decimals_of_column,
    number_text,
    share_text,
    signed_text,
)
from bwlab_analysis.report.tables_weights import measure_heads, measures_row
from bwlab_analysis.report.verdict import FROM_WEIGHTS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bwlab.blocks.scheme import BlockScheme
    from bwlab_analysis.activations.changes import ActivationReport
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.activations.losses import BlockBlame, Loss, LossReport
    from bwlab_analysis.activations.pair import PairInBase
    from bwlab_analysis.fidelity.bootstrap import Interval
    from bwlab_analysis.fidelity.recommend import Trial
    from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores
    from bwlab_analysis.weights.conflict import ConflictReport


SCORERS_ABREAST = 3
EFFECTS = ("effect_a", "effect_b")

COLUMNS = 6  # of a matrix, of 15 characters at most
SHOWN = ("cosine", "out_overlap", "in_overlap")


def print_interaction(console: Console, report: InteractionReport) -> None:
    """Print what two adapters do to a base's activations, over all timesteps."""
    null = "; in brackets, with a random adapter of the same norms in one's place" if report.draws else ""
    console.print(f"In the base, over {looked_at(report)}{null}:")
    table = new_table(["block", *AT_WORK.values()])
    whole = [place for place in report.effects if place.timestep == ALL_TIMES]
    effects = [place.measures[name] for place in whole for name in EFFECTS]
    digits = dict.fromkeys(AT_WORK, 2) | dict.fromkeys(EFFECTS, _digits(effects))
    for place in whole:
        table.add_row(place.block, *(beside(place.measures[name], digits[name]) for name in AT_WORK))
    console.print(table)


def looked_at(report: InteractionReport) -> str:
    """Return on what two adapters were looked at, in words."""
    times = f"{'timestep' if len(report.timesteps) == 1 else 'timesteps'} {', '.join(map(str, report.timesteps))}"
    return f"{counted(report.latents, 'latent')} at {times} ({report.inputs})"


def print_losses(console: Console, reports: Sequence[LossReport]) -> None:
    """Print the losses on each adapter's own pictures."""
    table = new_table(LOSSES)
    for report in reports:
        drawn = report.random_harm
        random = f"{sum(drawn) / len(drawn):.3f}" if drawn else NONE
        losses = [_loss(one) for one in (report.base, report.own, report.both, report.harm)]
        lost = NONE if report.gain_lost is None else f"{100 * report.gain_lost:.0f} %"
        table.add_row(report.adapter, *losses, random, lost)
    pictures = "; ".join(f"{report.adapter}: {report.inputs}" for report in reports)
    console.print(
        f"Denoising loss on each adapter's own pictures ({pictures}), in brackets the standard error; harm: of the "
        "other adapter; random: of random adapters in its place:"
    )
    console.print(table)


def print_blame(console: Console, blame: Sequence[BlockBlame], most: int = 8) -> None:
    """Print the blocks whose removal gives the other adapter most, the first `most` of them."""
    if not blame:
        console.print("One adapter has no effect here: there is no block to blame.")
        return
    table = new_table(["switched off", "gives the other", "costs its own"])
    for one in blame[:most]:
        table.add_row(f"{one.adapter} in {one.block}", share_text(one.gain), share_text(one.loss))
    shown = f"; the first {most} of {len(blame)}" if len(blame) > most else ""
    console.print(f"Blame, in shares of each adapter's effect (below 0: without the block it is worse{shown}):")
    console.print(table)


def print_advice(console: Console, steps: Sequence[Step], scheme: BlockScheme) -> None:
    """Print what to turn down, and how to say so to each tool."""
    if not steps:
        console.print(f"What to do. {nothing_to_do()}")
        return
    console.print(f"What to do. {caution()}")
    for step in steps:
        console.print(f"  {step.words}")
    for adapter, spec in specs_of(steps).items():
        if spec != "1":
            _print_spec(console, adapter, spec, scheme)


def _print_spec(console: Console, adapter: str, spec: str, scheme: BlockScheme) -> None:
    """Print how to say a spec to bwlab and to other tools; lines that are copied are not wrapped."""
    console.print(f'  {adapter}: --scale "{spec}"', soft_wrap=True)
    for name, translation in notations_of(spec, scheme).items():
        console.print(f"     {name}: {translation.text}", soft_wrap=True)
        for note in translation.notes:
            console.print(f"       ({note})")


def print_activations(console: Console, file: str, report: ActivationReport) -> None:
    """Print what an adapter changes in each block at each timestep, one table a measure."""
    null = f". In brackets, {counted(report.draws, 'random adapter')} of the same norms" if report.draws else ""
    console.print(
        f"{file} on {counted(report.latents, 'latent')} ({report.inputs}); "
        f"layers in {', '.join(report.changed_blocks)}{null}:"
    )
    blocks = list(dict.fromkeys(one.block for one in report.changes))
    for measure in report.changes[0].measures:
        table = new_table([measure, *(f"t {time}" for time in report.timesteps)])
        digits = _digits([one.measures[measure] for one in report.changes])
        for block in blocks:
            row = [beside(report.at(block, time).measures[measure], digits) for time in report.timesteps]
            table.add_row(block, *row)
        console.print(table)


def print_fidelity(
    console: Console,
    conditions: Sequence[ConditionScores],
    controls: Sequence[ConditionScores],
    profiles: Sequence[BlockProfile],
    leading: Sequence[str],
) -> None:
    """Print the scores of compositions and controls, and what each block carries.

    Args:
        console: to print on.
        conditions: whole compositions, and those with single blocks in and out, which are told by `profiles`.
        controls: beside them.
        profiles: of single blocks; none if they were not knocked in and out.
        leading: names of the scorers of identity, style and text.

    """
    scorers = list(conditions[0].scores)
    whole = [one for one in conditions if one.condition is None or one.condition.block is None]
    console.print(f"Scores, with 95 % intervals over prompts and seeds. {few_pictures(conditions)}".rstrip())
    for start in range(0, len(scorers), SCORERS_ABREAST):
        abreast = scorers[start : start + SCORERS_ABREAST]
        table = new_table(["composition", *(name.replace("_", " ") for name in abreast)])
        for one in whole:
            table.add_row(one.name, *(_interval(one.scores[name]) for name in abreast))
        table.add_section()
        for one in controls:
            table.add_row(one.name, *(_interval(one.scores[name]) for name in abreast))
        console.print(table)
    if profiles:
        console.print(PROFILES)
        for scorer in scorers:
            console.print(f"Score of {scorer.replace('_', ' ')}:")
            console.print(_profile_table(scorer, profiles))
        for line in carriers(conditions, profiles, leading):
            console.print(line)


def _profile_table(scorer: str, profiles: Sequence[BlockProfile]) -> object:
    table = new_table(["block", *(head.replace(" ", "\n", 1) for head in PROFILE_HEADS)])
    found = {(one.adapter, one.block): one for one in profiles}
    for block in dict.fromkeys(one.block for one in profiles):
        row = []
        for adapter in ("identity", "style"):
            one = found.get((adapter, block))
            row += [NONE, NONE] if one is None else [_signed(one.knocked_in[scorer]), _signed(one.knocked_out[scorer])]
        table.add_row(block, *row)
    return table


def print_trials(console: Console, trials: Sequence[Trial], scheme: BlockScheme) -> None:
    """Print the compositions that were tried, the best first, and how to use the best."""
    table = new_table(["kept", "identity", "style", "text", "why it was tried"])
    for trial in trials:
        shares = (trial.kept.identity, trial.kept.style, trial.kept.text)
        table.add_row(_interval(trial.together), *(f"{share:.2f}" for share in shares), trial.reason)
    console.print(f"Compositions tried, best first. {SHARES} {few_pictures([one.scores for one in trials])}".rstrip())
    console.print(table)
    console.print(standing(trials))
    best = trials[0].composition
    console.print("The best:")
    for adapter in ("identity", "style"):
        _print_spec(console, adapter, best.spec(adapter), scheme)


def _digits(column: Iterable[Measured | None]) -> int:
    return decimals_of_column(one.value for one in column if one is not None)


def _loss(loss: Loss) -> str:
    error = "" if math.isnan(loss.error) else f" ({loss.error:.3f})"
    return f"{loss.value:.3f}{error}"


def _interval(one: Interval) -> str:
    return f"{number_text(one.mean)} ({number_text(one.low)}..{number_text(one.high)})"


def _signed(one: Interval) -> str:
    mean, low, high = map(signed_text, (one.mean, one.low, one.high))
    return f"{mean} ({low}..{high})"


def print_matrix(
    console: Console, files: Sequence[Path], pairs: Sequence[tuple[ConflictReport, PairInBase | None]]
) -> None:
    """Print every pair's measures over the whole adapters, and with a base what each leaves of the other."""
    called = dict(zip(files, letters(len(files)), strict=True))
    for file, letter in called.items():
        console.print(f"{letter} = {file}", soft_wrap=True)
    measures = [measure for measure in pairs[0][0].measures if measure.name in SHOWN]
    table = new_table(["pair", "shared modules", *measure_heads(measures)])
    for report, _ in pairs:
        pair = f"{called[report.file_a]}, {called[report.file_b]}"
        table.add_row(pair, str(report.total.shared), *measures_row(report.total, measures))
    console.print(table)
    found = [(report, at_work) for report, at_work in pairs if at_work is not None]
    if found:
        random = "; in brackets, with a random adapter in one's place" if found[0][1].interaction.draws else ""
        console.print(f"Of the base's prediction, over {looked_at(found[0][1].interaction)}{random}:")
        console.print(_interactions(called, found))
        console.print("What the adapter of a row keeps beside that of a column (1: its whole effect):")
        for table in _kept(called, found):
            console.print(table)
        console.print("The blocks of every pair, and what to do, are in --json and --report; or give two files.")
    else:
        console.print("The blocks of every pair are in --json and --report; or give two files.")
        console.print(FROM_WEIGHTS)


def _interactions(called: Mapping[Path, str], pairs: Sequence[tuple[ConflictReport, PairInBase]]) -> Table:
    table = new_table(["pair", "alignment", "interaction"])
    for report, at_work in pairs:
        measures = at_work.interaction.at(PREDICTION).measures
        values = [beside(measures[name], 2) for name in ("alignment", "interaction")]
        table.add_row(f"{called[report.file_a]}, {called[report.file_b]}", *values)
    return table


def _kept(called: Mapping[Path, str], pairs: Sequence[tuple[ConflictReport, PairInBase]]) -> Iterator[Table]:
    """Matrices of so many columns as fit."""
    kept: dict[tuple[str, str], Measured | None] = {}
    for report, at_work in pairs:
        a, b, measures = called[report.file_a], called[report.file_b], at_work.interaction.at(PREDICTION).measures
        kept |= {(a, b): measures["retention_a"], (b, a): measures["retention_b"]}
    names = list(called.values())
    for start in range(0, len(names), COLUMNS):
        columns = names[start : start + COLUMNS]
        table = new_table(["", *columns])
        for row in names:
            table.add_row(row, *(beside(kept.get((row, column)), 2) for column in columns))
        yield table
