"""The presentations of `bwlab analyze fidelity` and `recommend`: scores of compositions and of single blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bwlab.tables import NO_VALUE, Cell, Column, Row, Table, columns_of
from bwlab_analysis.fidelity.scores import HARMONIC
from bwlab_analysis.report.advice import spec_items
from bwlab_analysis.report.numbers import ERROR, error_lines, interval_cell, number_cell, signed_text, words_of
from bwlab_analysis.report.presentation import BlockMap, Item, Listing, Presentation, Section
from bwlab_analysis.report.verdict import (
    best_trial_text,
    carrier_lines,
    few_images_warning,
    is_recommended,
    not_recommended_text,
)

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme
    from bwlab_analysis.fidelity.recommend import Trial
    from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores, Judge
    from bwlab_analysis.measures import MeasureError

PROFILES_NOTE = (
    "Alone: the score with only this block, minus the score of the base. Beside the other adapter: the score with both "
    "adapters, minus the score with both adapters without this block. In brackets: 95 % intervals."
)
SHARES_NOTE = (
    "Identity, style: 1 is the score of that adapter alone, 0 the score of the base. Text: 1 is the score of the base. "
    "Retained: the harmonic mean of these shares, each counted as at most 1, with its 95 % interval over prompts and "
    "seeds."
)
KNOCKED = {"knocked_in": "alone", "knocked_out": "beside the other"}


def present_fidelity(
    names: tuple[str, str],
    conditions: Sequence[ConditionScores],
    controls: Sequence[ConditionScores],
    profiles: Sequence[BlockProfile],
    judge: Judge,
) -> Presentation:
    """Return the presentation of the scores of compositions.

    Args:
        names: names of the identity adapter and of the style adapter.
        conditions: scores of whole compositions, and of single blocks knocked in and out, which `profiles` summarise.
        controls: scores of images to compare with.
        profiles: profiles of single blocks; empty if blocks were not knocked in and out.
        judge: the scorers.

    """
    whole = [scores for scores in conditions if scores.condition is None or scores.condition.block is None]
    note = f"In brackets: 95 % intervals over prompts and seeds. {few_images_warning(conditions)}".rstrip()
    scorers = [*(scorer.name for scorer in judge.scorers), HARMONIC]
    rows, others = (tuple(_scores_row(scores, scorers) for scores in group) for group in (whole, controls))
    scored = Table(columns_of("composition", *map(words_of, scorers)), rows, totals=others, note=note)
    summaries = {scorer.name: scorer.summary for scorer in judge.scorers}
    summaries[HARMONIC] = f"harmonic mean of {', '.join(judge.leading)}"
    listing = Listing(tuple(f"{words_of(name)}: {summary}" for name, summary in summaries.items()))
    details = [Section("Scores of compositions", (scored, *error_lines(judge.errors), listing))]
    conclusion: list[Item] = list(carrier_lines(conditions, profiles, judge.leading)) if profiles else []
    if profiles:
        tables = [_profile_table(scorer, profiles) for scorer in scorers]
        details.append(Section("What single blocks contribute", (PROFILES_NOTE, *tables)))
        conclusion.append(BlockMap(_profile_maps(profiles)))
    title = f"Fidelity of {names[0]} (identity) with {names[1]} (style)"
    return Presentation(title, Section("Summary", tuple(conclusion)), tuple(details))


def present_trials(trials: Sequence[Trial], scheme: BlockScheme, errors: Sequence[MeasureError] = ()) -> Presentation:
    """Return the presentation of the compositions that were tried, with the best one as block specs."""
    best = trials[0].composition
    specs = {adapter: best.spec(adapter) for adapter in ("identity", "style")}
    note = f"{SHARES_NOTE} {few_images_warning([trial.scores for trial in trials])}".rstrip()
    columns = (
        *columns_of("retained", "identity", "style", "text"),
        Column("reason", align="left", wrap=True),
    )
    table = Table(columns, tuple(map(_trial_row, trials)), note=note)
    details = (
        Section("Compositions tried, best first", (table, *error_lines(errors))),
        Section("Scales of every composition", (_scales_table(trials),), page_only=True),
    )
    if is_recommended(trials):
        title, first = "Recommended composition", tuple[Item, ...]()
    else:
        title, first = "Compositions tried", (not_recommended_text(trials),)
    conclusion = Section("Best composition", (*first, best_trial_text(trials), *spec_items(specs, scheme)))
    return Presentation(title, conclusion, details)


def _scores_row(scores: ConditionScores, scorers: Sequence[str]) -> Row:
    cells = (interval_cell(scores.scores[name]) if name in scores.scores else ERROR for name in scorers)
    return (Cell(scores.name), *cells)


def _profile_table(scorer: str, profiles: Sequence[BlockProfile]) -> Table:
    by_block: dict[str, dict[str, BlockProfile]] = {}
    for profile in profiles:
        by_block.setdefault(profile.block, {})[profile.adapter] = profile
    columns = (
        Column("block", align="left"),
        Column("identity's", "alone"),
        Column("identity's", "beside style"),
        Column("style's", "alone"),
        Column("style's", "beside identity"),
    )
    rows = tuple(
        (Cell(block), *_profile_cells(adapters.get("identity"), scorer), *_profile_cells(adapters.get("style"), scorer))
        for block, adapters in by_block.items()
    )
    return Table(columns, rows, title=f"Score of {words_of(scorer)}")


def _profile_cells(profile: BlockProfile | None, scorer: str) -> Row:
    if profile is None:
        return (NO_VALUE, NO_VALUE)
    intervals = (profile.knocked_in.get(scorer), profile.knocked_out.get(scorer))
    return tuple(ERROR if interval is None else interval_cell(interval, text=signed_text) for interval in intervals)


def _profile_maps(profiles: Sequence[BlockProfile]) -> Mapping[str, Mapping[str, float]]:
    maps: dict[str, dict[str, float]] = {}
    for profile in profiles:
        for way, words in KNOCKED.items():
            for scorer in (profile.adapter, HARMONIC):
                name = f"{profile.adapter} adapter's blocks {words}: score of {scorer}"
                scores = profile.knocked_in if way == "knocked_in" else profile.knocked_out
                if scorer in scores:
                    maps.setdefault(name, {})[profile.block] = scores[scorer].mean
    return maps


def _trial_row(trial: Trial) -> Row:
    shares = (trial.retention.identity, trial.retention.style, trial.retention.text)
    return (interval_cell(trial.retained), *map(number_cell, shares), Cell(trial.reason))


def _scales_table(trials: Sequence[Trial]) -> Table:
    columns = tuple(Column(head, align="left") for head in ("reason", "identity's blocks", "style's blocks"))
    rows = tuple(
        (Cell(trial.reason), Cell(trial.composition.spec("identity")), Cell(trial.composition.spec("style")))
        for trial in trials
    )
    return Table(columns, rows)
