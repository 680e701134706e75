"""Numbers as text and as table cells, each with a value to compare it with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from bwlab.tables import EMPTY, NO_VALUE, Cell, Column, Table
from bwlab_analysis.measures import Interval, Measured, MeasureError
from bwlab_analysis.weights.adapter_weights import LeftOut

COLUMNS = {
    "top1_share": Column("top-1 share", "(flat spectrum)"),
    "cosine": Column("cosine", "(random pair)"),
    "out_overlap": Column("out overlap", "(random pair)"),
    "in_overlap": Column("in overlap", "(random pair)"),
    "smallest_angle": Column("angle, deg", "(random)"),
    "sign_conflict": Column("sign conflict", "(random pair)"),
}
"""Columns of the built-in measures whose heads name the number in brackets."""


ERROR = Cell("error")
"""The cell of a measure whose plugin failed."""


def words_of(name: str) -> str:
    """Return the name of a measure as tables show it.

    >>> words_of("effective_rank")
    'effective rank'
    """
    return name.replace("_", " ")


def error_lines(errors: Iterable[MeasureError]) -> list[str]:
    """Return a line for each measure that failed, whatever the number of blocks in which it did."""
    first = {error.name: error for error in reversed(list(errors))}
    return [f"No {words_of(name)}: {first[name].plugin}: {first[name].reason}." for name in reversed(first)]


def measure_column(name: str) -> Column:
    """Return the column of a measure."""
    return COLUMNS.get(name) or Column(words_of(name))


def measure_cell(name: str, measured: Measured | None) -> Cell:
    """Return the value of a measure with the value to compare it with."""
    if measured is None:
        return NO_VALUE
    if measured.error:
        return ERROR
    text, note = FORMATS.get(name, plain_text)(measured)
    return Cell(text, measured.value, f"({note})" if note else "")


def beside_random_cell(measured: Measured | None, digits: int) -> Cell:
    """Return a value with the mean of random adapters, if it is known."""
    if measured is None:
        return NO_VALUE
    note = "" if measured.random is None else f"({number_text(measured.random, digits)})"
    return Cell(number_text(measured.value, digits), measured.value, note)


def number_cell(value: float | None, digits: int = 2, note: str = "") -> Cell:
    """Return the cell of a number."""
    return NO_VALUE if value is None else Cell(number_text(value, digits), value, note)


def count_cell(number: int) -> Cell:
    """Return the cell of a count."""
    return Cell(str(number), number)


def share_cell(share: float | None) -> Cell:
    """Return the cell of a share: 1 is 100.0 %."""
    return Cell(share_text(share), share)


def interval_cell(interval: Interval, digits: int = 2, text: Callable[[float, int], str] | None = None) -> Cell:
    """Return a mean with its interval.

    >>> interval_cell(Interval(0.5, -0.001, 0.75)).line
    '0.50 (0.00..0.75)'
    """
    write = text or number_text
    mean, low, high = (write(value, digits) for value in (interval.mean, interval.low, interval.high))
    return Cell(mean, interval.mean, f"({low}..{high})")


def left_out_lines(file: str, left_out: Iterable[LeftOut]) -> list[str]:
    """Return a line for each part of a file that the numbers do not cover."""
    return [f"Not in these numbers, from {file}: {part.line}." for part in left_out]


def group_values(groups: Iterable[tuple[str, Mapping[str, Measured | None]]], name: str) -> dict[str, float]:
    """Return the value of a measure for each block that has a value."""
    named = {block: measures.get(name) for block, measures in groups}
    return {block: measured.value for block, measured in named.items() if measured is not None and not measured.error}


def heat_table(
    title: str,
    corner: str,
    rows: Sequence[str],
    heads: Sequence[str],
    values: Mapping[tuple[str, str], Measured | None],
    note: str = "",
) -> Table:
    """Return a table whose cells are coloured by their values.

    Args:
        title: title of the table.
        corner: head of the first column.
        rows: names of the rows.
        heads: heads of the other columns.
        values: values by row and column; missing values and None are shown as `-`.
        note: how to read the table.

    """
    known = [measured.value for measured in values.values() if measured is not None]
    most, digits = max(map(abs, known), default=0.0), decimals_of_column(known)

    def cell(row: str, head: str) -> Cell:
        shown = beside_random_cell(values.get((row, head)), digits)
        fill = 0.0 if shown.value is None or most == 0 else shown.value / most
        return Cell(shown.text, shown.value, shown.note, fill)

    columns = (Column(corner, align="left"), *map(Column, heads))
    return Table(columns, tuple((Cell(row), *(cell(row, head) for head in heads)) for row in rows), (), title, note)


def times_of(timesteps: tuple[int, ...]) -> list[str]:
    """Return the column heads of timesteps."""
    return [f"t {time}" for time in timesteps]


def decimals_for(spread: float, least: int = 3) -> int:
    """Return the number of decimals with which `spread` shows two digits.

    >>> decimals_for(0.0021), decimals_for(0.00011), decimals_for(0.5)
    (4, 5, 3)
    """
    return least if spread <= 0.0 else max(least, math.ceil(-math.log10(spread)) + 1)


def decimals_of_column(values: Iterable[float], least: int = 2, most: int = 4) -> int:
    """Return the number of decimals with which the largest of these numbers shows two digits.

    >>> decimals_of_column([0.5, 0.001]), decimals_of_column([0.012]), decimals_of_column([0.0])
    (2, 3, 2)
    """
    return min(most, decimals_for(max(map(abs, values), default=0.0), least))


def cosine_text(cosine: Measured) -> tuple[str, str]:
    """Return a cosine, and the mean and standard deviation of a random pair's: `("0.0031", "0 +- 0.0020")`."""
    spread = cosine.random_sd or 0.0
    digits = decimals_for(spread)
    return number_text(cosine.value, digits), f"0 +- {spread:.{digits}f}"


def multiple_text(overlap: Measured) -> tuple[str, str]:
    """Return an overlap as a multiple of chance, and the value of a random pair: `("x1.90", "1 +- 0.05")`."""
    spread = overlap.random_sd or 0.0
    digits = decimals_for(spread, least=2)
    return f"x{overlap.value:.{2 if overlap.value < 100 else 0}f}", f"1 +- {spread:.{digits}f}"


def angle_text(angle: Measured) -> tuple[str, str]:
    """Return an angle in degrees, and the approximate angle of a random pair: `("62", "77")`."""
    return f"{angle.value:.{0 if angle.value >= 1.0 else 2}f}", f"{angle.random or 0.0:.0f}"


def signs_text(conflict: Measured) -> tuple[str, str]:
    """Return a sign conflict, and the value of a random pair: `("0.5003", "0.5 +- 0.0010")`."""
    spread = conflict.random_sd or 0.0
    digits = decimals_for(spread)
    return f"{conflict.value:.{digits}f}", f"0.5 +- {spread:.{digits}f}"


def plain_text(measured: Measured) -> tuple[str, str]:
    """Return a value with three digits, and the value of random adapters if it is known."""
    if measured.random is None:
        return f"{measured.value:.3g}", ""
    spread = "" if measured.random_sd is None else f" +- {measured.random_sd:.2g}"
    return f"{measured.value:.3g}", f"{measured.random:.3g}{spread}"


def rank_text(rank: Measured) -> tuple[str, str]:
    """Return the effective rank and the rank of the factors: `2.9 of 3`, `907 of 1188`."""
    of_rank = rank.details["of_rank"]
    return f"{rank.value:.{0 if of_rank >= 100 else 1}f} of {of_rank:.{3 if of_rank < 1000 else 4}g}", ""


def top_share_text(share: Measured) -> tuple[str, str]:
    """Return the share of the first direction, and its share in a flat spectrum: `("51 %", "33 %")`."""
    return f"{100 * share.value:.0f} %", f"{100 * share.details['flat']:.0f} %"


FORMATS: Mapping[str, Callable[[Measured], tuple[str, str]]] = {
    "effective_rank": rank_text,
    "top1_share": top_share_text,
    "cosine": cosine_text,
    "out_overlap": multiple_text,
    "in_overlap": multiple_text,
    "smallest_angle": angle_text,
    "sign_conflict": signs_text,
}
"""Functions that write the built-in measures: the value, and the value to compare it with."""


def share_text(share: float | None) -> str:
    """Return a share as `12.3 %`; `-` for None."""
    return EMPTY if share is None else f"{number_text(100 * share, 1)} %"


def relative_text(relative: float | None) -> str:
    """Return a share of the norm of the base with two digits; `-` without a base.

    >>> relative_text(0.00523), relative_text(1.234), relative_text(0.0)
    ('0.52 %', '123 %', '0 %')
    """
    return EMPTY if relative is None else f"{100 * relative:.{2 if relative < 1 else 3}g} %"


def number_text(value: float, digits: int = 2) -> str:
    """Return a number with `digits` decimals, without a minus sign before zero; from 1000 on with three digits.

    >>> number_text(0.1234), number_text(-0.001), number_text(12345.6)
    ('0.12', '0.00', '1.23e+04')
    """
    if abs(value) >= 1000:
        return f"{value:.3g}"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0.0 else text


def signed_text(value: float, digits: int = 2) -> str:
    """Return a difference with its sign; `+0.00` for a difference that rounds to zero.

    >>> signed_text(0.123), signed_text(-0.001)
    ('+0.12', '+0.00')
    """
    text = f"{value:+.{digits}f}"
    return text.replace("-", "+") if float(text) == 0.0 else text
