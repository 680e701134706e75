"""Numbers as a person reads them, each with its scale."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bwlab_analysis.measures import Measured

NONE = "-"

AT_WORK = {
    "effect_a": "effect of a",
    "effect_b": "effect of b",
    "alignment": "alignment",
    "retention_a": "a kept",
    "retention_b": "b kept",
    "interaction": "interaction",
}
"""What two adapters do to activations: measures, and what reports call them."""
LOSSES = ("pictures", "base", "alone", "both", "harm", "random", "of its gain")
"""Heads of the table of losses."""


def decimals_for(spread: float, least: int = 3) -> int:
    """So many decimals that `spread` shows two digits.

    >>> decimals_for(0.0021), decimals_for(0.00011), decimals_for(0.5)
    (4, 5, 3)
    """
    return least if spread <= 0.0 else max(least, math.ceil(-math.log10(spread)) + 1)


def decimals_of_column(values: Iterable[float], least: int = 2, most: int = 4) -> int:
    """So many decimals that the largest of these numbers shows two digits.

    >>> decimals_of_column([0.5, 0.001]), decimals_of_column([0.012]), decimals_of_column([0.0])
    (2, 3, 2)
    """
    return min(most, decimals_for(max(map(abs, values), default=0.0), least))


def cosine_text(cosine: Measured, words: bool = False) -> str:
    """`0.0031 (0 +- 0.0020)`: the value and the random pair's mean and standard deviation."""
    spread = cosine.random_sd or 0.0
    digits = decimals_for(spread)
    random = f"random pair: {0:.{digits}f}" if words else "0"
    return f"{_unsigned_zero(f'{cosine.value:.{digits}f}')} ({random} +- {spread:.{digits}f})"


def multiple_text(overlap: Measured, words: bool = False) -> str:
    """`x1.9 (1 +- 0.05)`: the multiple of chance and that of a random pair with its standard deviation."""
    spread = overlap.random_sd or 0.0
    digits = decimals_for(spread, least=2)
    random = f"of chance (random pair: x{1:.{digits}f}" if words else "(1"
    return f"x{overlap.value:.{2 if overlap.value < 100 else 0}f} {random} +- {spread:.{digits}f})"


def angle_text(angle: Measured) -> str:
    """`62 (77)`: degrees, and about those of a random pair."""
    return f"{angle.value:.{0 if angle.value >= 1.0 else 2}f} ({angle.random or 0.0:.0f})"


def signs_text(conflict: Measured) -> str:
    """`0.5003 (0.5 +- 0.0010)`."""
    spread = conflict.random_sd or 0.0
    digits = decimals_for(spread)
    return f"{conflict.value:.{digits}f} (0.5 +- {spread:.{digits}f})"


def plain_text(measured: Measured) -> str:
    """Three digits, with what random adapters give where it is known."""
    if measured.random is None:
        return f"{measured.value:.3g}"
    spread = "" if measured.random_sd is None else f" +- {measured.random_sd:.2g}"
    return f"{measured.value:.3g} ({measured.random:.3g}{spread})"


def share_text(share: float | None) -> str:
    """`12.3 %`; `-` of nothing."""
    return NONE if share is None else f"{number_text(100 * share, 1)} %"


def rank_text(rank: Measured) -> str:
    """`2.9 of 3`, `907 of 1188`: the effective rank and the rank that the factors have."""
    of_rank = rank.details["of_rank"]
    return f"{rank.value:.{0 if of_rank >= 100 else 1}f} of {of_rank:.{3 if of_rank < 1000 else 4}g}"


def relative_text(relative: float | None) -> str:
    """`0.52 %` of the base's norm, two digits; `-` without a base.

    >>> relative_text(0.00523), relative_text(1.234), relative_text(0.0)
    ('0.52 %', '123 %', '0 %')
    """
    return NONE if relative is None else f"{100 * relative:.{2 if relative < 1 else 3}g} %"


def beside(measured: Measured | None, digits: int) -> str:
    """`0.31 (0.97)`: the value and the mean of random adapters, where it is known; `-` of nothing."""
    if measured is None:
        return NONE
    random = "" if measured.random is None else f" ({number_text(measured.random, digits)})"
    return f"{number_text(measured.value, digits)}{random}"


def number_text(value: float, digits: int = 2) -> str:
    """So many decimals, without a minus before zero.

    >>> number_text(0.1234), number_text(-0.001)
    ('0.12', '0.00')
    """
    return _unsigned_zero(f"{value:.{digits}f}")


def signed_text(value: float) -> str:
    """Return a difference with its sign; what rounds to nothing is `+0.00`.

    >>> signed_text(0.123), signed_text(-0.001)
    ('+0.12', '+0.00')
    """
    return f"{value:+.2f}".replace("-0.00", "+0.00")


def _unsigned_zero(text: str) -> str:
    return text.removeprefix("-") if float(text) == 0.0 else text
