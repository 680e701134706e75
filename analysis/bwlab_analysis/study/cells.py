"""Cells of a study's tables."""

from __future__ import annotations

from bwlab_analysis.fidelity.bootstrap import Interval
from bwlab_analysis.report.markup import Cell, number


def interval_cell(found: Interval, digits: int = 2) -> Cell:
    """Return a mean with its interval, to so many decimals.

    >>> interval_cell(Interval(0.5, -0.001, 0.75)).small
    '(0.00 .. 0.75)'
    """
    mean, low, high = (number(one, digits) for one in (found.mean, found.low, found.high))
    return Cell(mean, found.mean, f"({low} .. {high})")
