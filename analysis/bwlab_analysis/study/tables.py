"""A study's tables, made of its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bwlab_analysis.fidelity.bootstrap import Interval, bootstrap
from bwlab_analysis.report.html import Cell, number, number_cell
from bwlab_analysis.study.blame_check import TRIED, searched
from bwlab_analysis.study.jobs import KINDS as KINDS_OF_JOBS
from bwlab_analysis.study.plan import BASE, CONTROLS, DISTANCES
from bwlab_analysis.study.results import Floats, Results
from bwlab_analysis.study.statistics import KINDS, RESAMPLES, Shares, correlation, interval, losses, split

if TYPE_CHECKING:
    from bwlab_analysis.study.blame_check import Searched


@dataclass(frozen=True)
class StudyTable:
    """A table: what it tells, how to read it, its heads and rows."""

    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        """Return the table as Markdown, with its title and note."""
        lines = [f"### {self.title}", "", self.note, ""]
        lines += [_line(self.heads), "|" + "---|" * len(self.heads)]
        lines += [_line([f"{cell.text} {cell.small}".strip() for cell in row]) for row in self.rows]
        return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def tables_of(results: Results) -> list[StudyTable]:
    """Return every table for which there are results."""
    shares = Shares(results) if BASE in results.compositions else None
    makers: list[StudyTable | None] = [_cost(results)]
    if shares is not None:
        makers = [fidelity(shares), claims(shares), profiles(shares), validation(shares), agreement(shares), *makers]
    return [table for table in makers if table is not None and table.rows]


def fidelity(shares: Shares) -> StudyTable:
    """Return how well each composition shows identity and style, and how far it is from the true picture."""
    results = shares.results
    rows = [_fidelity_row(shares, name) for name in results.compositions if name not in results.swept]
    note = (
        "Identity and style: 0 is what the base paints for the words, 1 the true picture; balance: their harmonic "
        "mean, picture by picture. Text: the score itself. Distances to the true picture, lower is nearer. In "
        "brackets: 95 % intervals over identities and seeds."
    )
    heads = ("composition", "identity", "style", "balance", "text", "embedding", "features", "structure")
    return StudyTable("Fidelity", note, heads, tuple(rows))


def _fidelity_row(shares: Shares, name: str) -> tuple[Cell, ...]:
    results = shares.results
    control = name in CONTROLS
    whole = [interval_cell(interval(shares.of(name, kind))) for kind in KINDS]
    balance = Cell("-") if control else interval_cell(interval(shares.balance(name)))
    text = interval_cell(interval(results.values(name, "text")))
    away = [
        interval_cell(interval(results.values(name, measure)), 3) if _far(results, name, measure) else Cell("-")
        for measure in DISTANCES
    ]
    return (Cell(name), *whole, balance, text, *away)


def _far(results: Results, name: str, measure: str) -> bool:
    return name not in CONTROLS and results.scored(name, measure)


def claims(shares: Shares) -> StudyTable:
    """Return each claim with the difference it is about."""
    claimed = shares.results.plan["claims"]
    rows = []
    for name, claim in claimed.items():
        better, worse = (_by(shares, claim[side], claim["by"]) for side in ("better", "worse"))
        prompts = min(better.shape[2], worse.shape[2])
        difference = interval(better[:, :, :prompts] - worse[:, :, :prompts])
        rows.append((Cell(name), Cell(claim["by"]), interval_cell(difference, 3), Cell(verdict(difference))))
    note = "The difference of shares, with its 95 % interval over identities and seeds, same prompts and seeds."
    return StudyTable("Claims", note, ("claim", "by", "difference", "verdict"), tuple(rows))


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


def profiles(shares: Shares) -> StudyTable:
    """Return what each block carries alone, or costs when it is off."""
    rows = []
    for sweep, names in shares.results.sweeps:
        for block, name in names.items():
            kinds = [interval_cell(interval(shares.of(name, kind))) for kind in KINDS]
            what = f"{sweep.adapter} {'only' if sweep.mode == 'in' else 'without'}"
            rows.append((Cell(sweep.of), Cell(what), Cell(block), *kinds))
    note = "One block of an adapter on alone, or off: shares as above."
    return StudyTable("What each block carries", note, ("composition", "adapter", "block", *KINDS), tuple(rows))


def validation(shares: Shares) -> StudyTable:
    """Return how each measure's ranks go with what is lost when two adapters act together."""
    results = shares.results
    outcome = losses(shares, results.alone)
    parts = split(results)
    names = dict.fromkeys(name for found in results.measures.values() for name in found)
    rows = []
    for name in names:
        cells = [
            correlation(where, results.measures, name, outcome, resamples)
            for where, resamples in ((parts.told_on, RESAMPLES), (parts.chosen_on, 0), (tuple(results.measures), 0))
        ]
        rows.append((cells, name))
    rows.sort(key=lambda row: -abs(row[0][0].rho) if np.isfinite(row[0][0].rho) else 1)
    shown = tuple(
        (
            Cell(name),
            *(number_cell(one.rho) if np.isfinite(one.rho) else Cell("-") for one in cells),
            Cell(f"{number(cells[0].low)} .. {number(cells[0].high)}" if np.isfinite(cells[0].rho) else "-"),
        )
        for cells, name in rows
    )
    note = (
        f"Spearman's rho of each measure with the fidelity lost against each adapter alone, over {len(parts.told_on)} "
        f"held-out pairs (identities and styles on which nothing was chosen), {len(parts.chosen_on)} pairs for "
        f"choosing, and all {len(results.measures)}. The interval is of the held-out rho, over identities."
    )
    heads = ("measure", "held-out rho", "rho for choosing", "rho of all", "95 % interval")
    return StudyTable("What predicts the loss", note, heads, shown)


def agreement(shares: Shares) -> StudyTable:
    """Return how good the blamed blocks are against an exhaustive search."""
    note = (
        "Each block of each adapter is switched off in turn: the gain is the change of balance. Top-1: how often the "
        "most blamed block is the one of most gain. Regret: the best gain less that of the best among the first so "
        "many blamed and of switching nothing off. bwlab analyze recommend may turn several blocks down: its regret "
        "can be below 0. In brackets: intervals over identities."
    )
    heads = ("blamed by", "top-1", "chance", "regret of 1", "of 2", "of 3", "of 5")
    return StudyTable("Blame against exhaustive search", note, heads, tuple(agreement_rows(shares)))


def _cost(results: Results) -> StudyTable:
    minutes = {kind: results.cpu_seconds[kind] / 60 for kind in KINDS_OF_JOBS if kind in results.cpu_seconds}
    minutes["in all"] = sum(minutes.values())
    rows = [(Cell(kind), number_cell(one, None, 1)) for kind, one in minutes.items()]
    return StudyTable("CPU time", "Of all jobs, in minutes of one core.", ("kind", "minutes"), tuple(rows))


def interval_cell(found: Interval, digits: int = 2) -> Cell:
    """Return a mean with its interval, to so many decimals.

    >>> interval_cell(Interval(0.5, -0.001, 0.75)).small
    '(0.00 .. 0.75)'
    """
    mean, low, high = (number(one, digits) for one in (found.mean, found.low, found.high))
    return Cell(mean, found.mean, f"({low} .. {high})")


def agreement_rows(shares: Shares) -> Iterator[tuple[Cell, ...]]:
    """Yield a row for each way of blaming: its agreement, chance, and regrets."""
    pairs = searched(shares)
    for way in dict.fromkeys(way for pair in pairs for way in pair.ways):
        agrees = np.mean([pair.agrees(way) for pair in pairs])
        chance = np.mean([1 / len(pair.gains) for pair in pairs])
        regrets = [_regret_cell(pairs, way, tried) for tried in TRIED]
        yield Cell(way), number_cell(float(agrees)), number_cell(float(chance)), *regrets
    tried = [(pair.identity, pair.best - pair.recommended) for pair in pairs if pair.recommended is not None]
    if tried:
        blank = Cell("-")
        yield Cell("bwlab analyze recommend"), blank, blank, _mean_cell(tried), *([blank] * (len(TRIED) - 1))


def _regret_cell(pairs: Sequence[Searched], way: str, tried: int) -> Cell:
    return _mean_cell([(pair.identity, pair.regret(way, tried)) for pair in pairs])


def _mean_cell(values: Sequence[tuple[str, float]]) -> Cell:
    """Return the mean of (identity, value), resampled over identities."""
    people = dict.fromkeys(name for name, _ in values)
    means = [np.mean([value for who, value in values if who == name]) for name in people]
    return interval_cell(bootstrap(np.reshape(means, (-1, 1))), 3)
