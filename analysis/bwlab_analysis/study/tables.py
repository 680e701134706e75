"""The tables of a study, made from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bwlab.tables import NO_VALUE, Cell, Row, Table, columns_of
from bwlab_analysis.fidelity.bootstrap import CONFIDENCE, ENOUGH_VALUES, bootstrap
from bwlab_analysis.measures import Interval
from bwlab_analysis.report.numbers import number_text
from bwlab_analysis.study import JOB_KINDS
from bwlab_analysis.study.blame_check import TRIED, SearchedPair, searched
from bwlab_analysis.study.plan import BASE, CONTROLS, DISTANCES, IDENTITY, IN, STYLE
from bwlab_analysis.study.results import Floats, PairKey, Results
from bwlab_analysis.study.statistics import (
    RESAMPLES,
    SUBJECT_KINDS,
    Correlation,
    Shares,
    ceiling,
    correlation,
    interval,
    losses,
    split,
)

TOO_FEW = "too few"


def tables_of(results: Results) -> list[Table]:
    """Return every table for which there are results."""
    shares = Shares(results) if BASE in results.compositions else None
    tables = [cost(results)]
    if shares is not None:
        predicted = [validation(shares, kind) for kind in SUBJECT_KINDS] if results.measures else []
        claimed = [claims(shares), *([claims_by_style(shares)] if len(results.styles) > 1 else [])]
        tables = [fidelity(shares), *claimed, profiles(shares), *predicted, agreement(shares), *tables]
    return [table for table in tables if table.rows]


def fidelity(shares: Shares) -> Table:
    """Return the table of how well each composition shows identity and style, and how far it is from the true image."""
    results = shares.results
    rows = [_fidelity_row(shares, name) for name in results.compositions if name not in results.swept]
    note = (
        "Identity and style: 0 for images of the base for the same words, 1 for the true image; balance: their "
        "harmonic mean, image by image. Text: the score itself. Embedding, features and structure: distances to the "
        "true image, lower is nearer. In brackets: 95 % intervals over identities and seeds."
    )
    heads = ("composition", "identity", "style", "balance", "text", "embedding", "features", "structure")
    return Table(columns_of(*heads), tuple(rows), title="Fidelity", note=note)


def _fidelity_row(shares: Shares, name: str) -> Row:
    results = shares.results
    control = name in CONTROLS
    subjects = [interval_cell(interval(shares.of(name, kind))) for kind in SUBJECT_KINDS]
    balance = NO_VALUE if control else interval_cell(interval(shares.balance(name)))
    text = interval_cell(interval(results.values(name, "text")))
    distances = [
        NO_VALUE
        if control or not results.scored(name, measure)
        else interval_cell(interval(results.values(name, measure)), 3)
        for measure in DISTANCES
    ]
    return (Cell(name), *subjects, balance, text, *distances)


def claims(shares: Shares) -> Table:
    """Return the table of claims, each with the difference it is about.

    The verdict goes by an interval that is corrected for the number of claims (Bonferroni): it is so wide that, if no
    difference existed, all of these intervals together would hold 0 in 95 % of studies. Few identities and seeds give
    no verdict, because intervals of few values are too narrow.
    """
    rows = []
    plan = shares.results.plan["claims"]
    corrected = 1 - (1 - CONFIDENCE) / max(1, len(plan))
    for name, claim in plan.items():
        differences = _differences(shares, claim)
        wide, enough = interval(differences, corrected), _resampled(differences) >= ENOUGH_VALUES
        pairs = differences.mean((2, 3))
        above = Cell(f"{int((pairs > 0).sum())} of {pairs.size}")
        cells = (
            interval_cell(interval(differences), 3),
            Cell(_range_text(wide, 3)),
            above,
            Cell(verdict(wide) if enough else TOO_FEW),
        )
        rows.append((Cell(name), Cell(claim["by"]), *cells))
    note = (
        "The difference of shares, with its 95 % interval over identities and seeds, same prompts and seeds. The "
        f"verdict goes by the wider interval, which is corrected for the number of claims, {len(plan)}."
    )
    if any(row[-1].text == TOO_FEW for row in rows):
        note += f" With fewer than {ENOUGH_VALUES} identities x seeds, intervals are too narrow for a verdict."
    heads = ("claim", "by", "difference", "corrected interval", "pairs above 0", "verdict")
    return Table(columns_of(*heads), tuple(rows), title="Claims", note=note)


def claims_by_style(shares: Shares) -> Table:
    """Return the table of the differences that claims are about, style by style."""
    styles, plan = shares.results.styles, shares.results.plan["claims"]
    rows = [
        (Cell(name), *(interval_cell(interval(_differences(shares, claim)[:, [s]]), 3) for s in range(len(styles))))
        for name, claim in plan.items()
    ]
    note = "The differences in each style, with 95 % intervals over identities and seeds that are not corrected."
    return Table(columns_of("claim", *styles), tuple(rows), title="Claims by style", note=note)


def _resampled(values: Floats) -> int:
    """Return how many `(identities, styles, prompts, seeds)` values intervals resample: one per identity and seed."""
    identities, _, _, seeds = values.shape
    return int(identities * seeds)


def _differences(shares: Shares, claim: Mapping[str, str]) -> Floats:
    """Return `(identities, styles, prompts, seeds)` differences of the shares that a claim is about."""
    better, worse = (_by(shares, claim[side], claim["by"]) for side in ("better", "worse"))
    prompts = min(better.shape[2], worse.shape[2])
    return np.asarray(better[:, :, :prompts] - worse[:, :, :prompts], np.float64)


def _by(shares: Shares, composition: str, by: str) -> Floats:
    return shares.balance(composition) if by == "balance" else shares.of(composition, by)


def verdict(difference: Interval) -> str:
    """Return whether a difference that is claimed to be above 0 is.

    >>> verdict(Interval(0.2, 0.1, 0.3)), verdict(Interval(-0.2, -0.3, -0.1)), verdict(Interval(0.1, -0.1, 0.3))
    ('holds', 'reversed', 'open')
    """
    if difference.low > 0:
        return "holds"
    return "reversed" if difference.high < 0 else "open"


def profiles(shares: Shares) -> Table:
    """Return the table of what each block carries alone, or costs when it is off."""
    rows = []
    for sweep, names in shares.results.sweeps:
        for block, name in names.items():
            cells = [interval_cell(interval(shares.of(name, kind))) for kind in SUBJECT_KINDS]
            adapter = f"{sweep.adapter} {'only' if sweep.mode == IN else 'without'}"
            rows.append((Cell(sweep.of), Cell(adapter), Cell(block), *cells))
    note = "One block of an adapter is on alone, or off. Identity and style as in the table of fidelity."
    return Table(
        columns_of("composition", "adapter", "block", *SUBJECT_KINDS),
        tuple(rows),
        title="What each block carries",
        note=note,
    )


CEILING = "ceiling"
LOST = {IDENTITY: "What predicts the loss of identity", STYLE: "What predicts the loss of style"}


def validation(shares: Shares, kind: str) -> Table:
    """Return the table of how each measure's ranks agree with the loss of identity, or of style."""
    results = shares.results
    outcome, parts = losses(shares, results.alone, kind), split(results)
    names = dict.fromkeys(name for measures in results.measures.values() for name in measures)
    columns = ((parts.held_out, RESAMPLES), (parts.chosen_on, 0), (tuple(results.measures), 0))
    correlations = [
        (name, [correlation(pairs, results.measures, name, outcome, resamples) for pairs, resamples in columns])
        for name in names
    ]
    correlations.sort(key=lambda entry: -abs(entry[1][0].rho) if np.isfinite(entry[1][0].rho) else 1)
    most = [_ceiling(pairs, outcome) for pairs, _ in columns]
    note = (
        f"Spearman's rho of each measure with the share of {kind} that is lost against its adapter alone, over "
        f"{len(parts.held_out)} held-out pairs (identities and styles on which nothing was chosen), "
        f"{len(parts.chosen_on)} pairs for choosing, and all {len(results.measures)}. Ceiling: what a perfect "
        "predictor would reach, by how much the loss differs from prompt to prompt. The interval is of the held-out "
        "rho, over identities."
    )
    heads = ("measure", "held-out rho", "rho for choosing", "rho of all", "95 % interval")
    ceilings = (Cell(CEILING), *(_rho_cell(rho) for rho in most), Cell("-"))
    rows = (ceilings, *(_validation_row(name, rhos) for name, rhos in correlations))
    return Table(columns_of(*heads), rows, title=LOST[kind], note=note)


def _ceiling(pairs: Sequence[PairKey], outcome: Mapping[PairKey, Floats]) -> float:
    rows = [outcome[pair] for pair in pairs if pair in outcome]
    prompts = min(map(len, rows), default=0)
    return ceiling(np.reshape([row[:prompts] for row in rows], (len(rows), prompts)))


def _validation_row(name: str, rhos: Sequence[Correlation]) -> Row:
    cells = [_rho_cell(measured.rho) for measured in rhos]
    held_out = rhos[0]
    interval_text = f"{number_text(held_out.low)} .. {number_text(held_out.high)}" if np.isfinite(held_out.rho) else "-"
    return (Cell(name), *cells, Cell(interval_text))


def _rho_cell(rho: float) -> Cell:
    return _number_cell(rho) if np.isfinite(rho) else NO_VALUE


def agreement(shares: Shares) -> Table:
    """Return the table of how good the blamed blocks are against an exhaustive search."""
    note = (
        "Each block of each adapter is switched off in turn: the gain is the change of balance. Top-1: how often the "
        "most blamed block is the one of most gain. Regret of n: the best gain less the best among the n most blamed "
        "blocks and no block switched off. bwlab analyze recommend may turn several blocks down, so its regret can be "
        "below 0. In brackets: intervals over identities."
    )
    heads = ("blamed by", "top-1", "chance", "regret of 1", "of 2", "of 3", "of 5")
    return Table(columns_of(*heads), tuple(agreement_rows(shares)), title="Blame against exhaustive search", note=note)


def cost(results: Results) -> Table:
    """Return the table of the CPU time of each kind of job."""
    minutes = {kind: results.cpu_seconds[kind] / 60 for kind in JOB_KINDS if kind in results.cpu_seconds}
    minutes["in all"] = sum(minutes.values())
    rows = [(Cell(kind), _number_cell(time, 1)) for kind, time in minutes.items()]
    note = "CPU time of all jobs of each kind, in minutes of one core."
    return Table(columns_of("kind", "minutes"), tuple(rows), title="CPU time", note=note)


def _number_cell(value: float, digits: int = 2) -> Cell:
    return Cell(number_text(value, digits), value)


def interval_cell(shown: Interval, digits: int = 2) -> Cell:
    """Return a mean with its interval, to a number of decimals.

    >>> interval_cell(Interval(0.5, -0.001, 0.75)).note
    '(0.00 .. 0.75)'
    """
    return Cell(number_text(shown.mean, digits), shown.mean, f"({_range_text(shown, digits)})")


def _range_text(shown: Interval, digits: int) -> str:
    return f"{number_text(shown.low, digits)} .. {number_text(shown.high, digits)}"


def agreement_rows(shares: Shares) -> Iterator[Row]:
    """Yield a row for each way of blaming: its agreement, chance, and regrets."""
    pairs = searched(shares)
    for way in dict.fromkeys(way for pair in pairs for way in pair.ways):
        agrees = np.mean([pair.agrees(way) for pair in pairs])
        chance = np.mean([1 / len(pair.gains) for pair in pairs])
        regrets = [_regret_cell(pairs, way, tried) for tried in TRIED]
        yield Cell(way), _number_cell(float(agrees)), _number_cell(float(chance)), *regrets
    tried = [(pair.identity, pair.best - pair.recommended) for pair in pairs if pair.recommended is not None]
    if tried:
        blank = NO_VALUE
        yield Cell("bwlab analyze recommend"), blank, blank, _mean_cell(tried), *([blank] * (len(TRIED) - 1))


def _regret_cell(pairs: Sequence[SearchedPair], way: str, tried: int) -> Cell:
    return _mean_cell([(pair.identity, pair.regret(way, tried)) for pair in pairs])


def _mean_cell(values: Sequence[tuple[str, float]]) -> Cell:
    """Return the mean of (identity, value), resampled over identities."""
    identities = dict.fromkeys(identity for identity, _ in values)
    means = [np.mean([value for name, value in values if name == identity]) for identity in identities]
    return interval_cell(bootstrap(np.reshape(means, (-1, 1))), 3)
