"""The presentations of `bwlab analyze fidelity` and `recommend`: scores of compositions and of single blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bwlab.tables import NO_VALUE, Cell, Column, Row, Table, columns_of
from bwlab_analysis.fidelity.scores import HARMONIC
from bwlab_analysis.measures import IDENTITY, STYLE
from bwlab_analysis.report.advice import spec_items
from bwlab_analysis.report.numbers import ERROR, error_lines, interval_cell, number_cell, signed_text, words_of
from bwlab_analysis.report.presentation import BlockMap, Item, Listing, Presentation, Section, Verbatim
from bwlab_analysis.report.verdict import (
    carrier_lines,
    few_images_warning,
    interval_name,
    recommendation_text,
)

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme
    from bwlab_analysis.fidelity.recommend import Proof, Recommendation, Trial
    from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores, Judge
    from bwlab_analysis.measures import MeasureError

PROFILES_NOTE = (
    "Alone: the score with only this block, minus the score of the base. Beside the other adapter: the score with both "
    "adapters, minus the score with both adapters without this block. In brackets: 95 % intervals."
)
SHARES_NOTE = (
    "Identity, style: 0 is the score of the base, 1 the score of the reference images. Text: 1 is the score of the "
    "base. Balance: the harmonic mean of these shares, each counted as at most 1, with its 95 % interval over prompts "
    "and seeds. The best of many looks better than it is."
)
PROOF_NOTE = "These images were generated in full, with seeds that the search did not use."
WITHOUT_BLOCKS = "Single blocks were not scored (--no-blocks)."
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
    few = few_images_warning(len(conditions[0].images))
    note = f"In brackets: 95 % intervals over prompts and seeds. {few}".rstrip()
    scorers = [*(scorer.name for scorer in judge.scorers), HARMONIC]
    rows, others = (tuple(_scores_row(scores, scorers) for scores in group) for group in (whole, controls))
    scored = Table(columns_of("composition", *map(words_of, scorers)), rows, totals=others, note=note)
    summaries = {scorer.name: scorer.summary for scorer in judge.scorers}
    summaries[HARMONIC] = f"harmonic mean of {', '.join(judge.leading)}"
    listing = Listing(tuple(f"{words_of(name)}: {summary}" for name, summary in summaries.items()))
    details = [Section("Scores of compositions", (scored, *error_lines(judge.errors), listing))]
    conclusion: list[Item] = [] if profiles else [WITHOUT_BLOCKS]
    if profiles:
        conclusion += carrier_lines(conditions, profiles, judge.leading)
        tables = [_profile_table(scorer, profiles) for scorer in scorers]
        details.append(Section("What single blocks contribute", (PROFILES_NOTE, *tables)))
        conclusion.append(BlockMap(_profile_maps(profiles)))
    title = f"Fidelity of {names[0]} (identity) with {names[1]} (style)"
    return Presentation(title, Section("Summary", tuple(conclusion)), tuple(details))


def present_recommendation(
    recommendation: Recommendation,
    scheme: BlockScheme,
    command: str,
    errors: Sequence[MeasureError] = (),
) -> Presentation:
    """Return the presentation of a search: the composition to use with its proof, and all that were tried.

    Args:
        recommendation: the result of the search.
        scheme: blocks of the base.
        command: the command line that generates with the composition to use.
        errors: scorers that failed.

    """
    specs = {adapter: recommendation.composition.spec(adapter) for adapter in (IDENTITY, STYLE)}
    schedules = zip((IDENTITY, STYLE), recommendation.composition.schedules, strict=True)
    lines = tuple(f'{adapter}: --schedule "{schedule}"' for adapter, schedule in schedules if schedule)
    columns = (
        *columns_of("images", "balance", "identity", "style", "text"),
        Column("change", align="left", wrap=True),
    )
    table = Table(columns, tuple(map(_trial_row, recommendation.trials)), note=SHARES_NOTE)
    details = [
        *([Section("New images", (_proof_table(recommendation.proof),))] if recommendation.proof is not None else []),
        Section("Compositions tried, those with most images first", (table, *error_lines(errors))),
        Section("Scales of every composition", (_scales_table(recommendation.trials),), page_only=True),
    ]
    title = "Recommended composition" if recommendation.recommended else "Compositions tried"
    answer: list[Item] = [recommendation_text(recommendation)]
    if recommendation.recommended:
        answer += [*spec_items(specs, scheme), *([Verbatim(lines)] if lines else []), Verbatim((command,))]
    return Presentation(title, Section("What to do", tuple(answer)), tuple(details))


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
    shares = (trial.shares.identity, trial.shares.style, trial.shares.text)
    count = Cell(str(len(trial.scores.images)))
    return (count, interval_cell(trial.balance), *map(number_cell, shares), Cell(trial.reason))


def _proof_table(proof: Proof) -> Table:
    rows = []
    for name, shares in (("both whole", proof.whole_shares), ("the best of the search", proof.best_shares)):
        cells = (shares.balance, shares.identity, shares.style, shares.text)
        rows.append((Cell(name), *map(number_cell, cells)))
    columns = (Column("composition", align="left"), *columns_of("balance", "identity", "style", "text"))
    gain = interval_cell(proof.gain, text=signed_text)
    between = f"the {interval_name(proof)} over prompts and seeds"
    note = f"The balance changes by {gain.text}; in brackets: {between}. {PROOF_NOTE}"
    return Table(columns, tuple(rows), note=note)


def _scales_table(trials: Sequence[Trial]) -> Table:
    columns = tuple(
        Column(head, align="left") for head in ("change", "identity's blocks", "style's blocks", "schedules")
    )
    rows = tuple(
        (
            Cell(trial.reason),
            Cell(trial.composition.spec(IDENTITY)),
            Cell(trial.composition.spec(STYLE)),
            Cell("; ".join(schedule or "none" for schedule in trial.composition.schedules)),
        )
        for trial in trials
    )
    return Table(columns, rows)
