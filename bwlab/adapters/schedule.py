"""Schedules of an adapter's scale over the sampling steps: `"0-0.4:1, 0.4-1:0.3"`.

The numbers before the colon are fractions of the sampling, 0 at its first step and 1 after its last; step i of n is
at i / n. The number after the colon multiplies the adapter's scale. Outside all entries the adapter is off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from bwlab.blocks.spec import NUMBER, number_text, parse_number
from bwlab.errors import BwlabError

SCHEDULE_FORM = 'Write begin-end:factor, separated by commas, such as "0-0.4:1, 0.4-1:0.3", or a single number'
ENTRY = re.compile(r"\s*(?P<begin>[^-:]*?)\s*-\s*(?P<end>[^:]*?)\s*:\s*(?P<factor>.*?)\s*")


@dataclass(frozen=True)
class Span:
    """A span of the sampling, `begin <= fraction < end` with 0 <= begin < end <= 1, and its factor."""

    begin: float
    end: float
    factor: float


@dataclass(frozen=True)
class Schedule:
    """The factor of an adapter's scale at each fraction of the sampling.

    Attributes:
        text: the schedule as it was written.
        spans: spans in order, without overlaps; the factor is 0 outside them.

    """

    text: str
    spans: tuple[Span, ...]

    def at(self, fraction: float) -> float:
        """Return the factor at a fraction of the sampling, 0 <= fraction < 1.

        >>> schedule = parse_schedule("0.2-0.6:1, 0.6-1:0.5")
        >>> [schedule.at(step / 5) for step in range(5)]
        [0.0, 1.0, 1.0, 0.5, 0.5]
        """
        return next((span.factor for span in self.spans if span.begin <= fraction < span.end), 0.0)

    def is_always_one(self) -> bool:
        """Return whether the schedule changes nothing."""
        return self.spans == ALWAYS.spans


ALWAYS = Schedule("1", (Span(0.0, 1.0, 1.0),))


def parse_schedule(text: str | float | Schedule | None) -> Schedule:
    """Return the schedule written as text; a number holds for the whole sampling, None means 1.

    Raises:
        BwlabError: an entry is malformed, leaves 0..1, ends before it begins, overlaps or stands before another one,
            or a number is not finite.

    """
    if text is None:
        return ALWAYS
    if isinstance(text, Schedule):
        return text
    text = str(text)
    # "-0.5" is a number and "1e-1" too, so numbers are tried before spans.
    if NUMBER.fullmatch(text.strip()) or ":" not in text:
        return Schedule(text, (Span(0.0, 1.0, _number(text.strip(), text)),))
    spans = tuple(_span(entry, text) for entry in text.split(","))
    for before, after in pairwise(spans):
        if after.begin < before.end:
            kind = "overlap" if after.end > before.begin else "are not in order"
            raise BwlabError(
                f"schedule {text!r}", f"{_span_text(before)} and {_span_text(after)} {kind}", SCHEDULE_FORM
            )
    return Schedule(text, spans)


def changes(*schedules: Schedule) -> tuple[float, ...]:
    """Return the fractions, including 0, at which a factor of any of these schedules may change, in order.

    >>> changes(parse_schedule("0-0.4:1"), parse_schedule("0.5-1:1"))
    (0.0, 0.4, 0.5)
    """
    return tuple(sorted({0.0, *(edge for schedule in schedules for edge in _edges(schedule) if edge < 1)}))


def _edges(schedule: Schedule) -> Iterator[float]:
    for span in schedule.spans:
        yield from (span.begin, span.end)


def _span(entry: str, text: str) -> Span:
    parts = ENTRY.fullmatch(entry)
    if parts is None:
        raise BwlabError(
            f"schedule {text!r}",
            f"{entry.strip()!r} is not an entry" if entry.strip() else "an entry is empty",
            SCHEDULE_FORM,
        )
    begin, end, factor = (_number(parts[name], text) for name in ("begin", "end", "factor"))
    span = Span(begin, end, factor)
    if not 0 <= begin <= 1 or not 0 <= end <= 1:
        raise BwlabError(
            f"schedule {text!r}", f"{_span_text(span)} leaves the sampling, which goes from 0 to 1", SCHEDULE_FORM
        )
    if begin >= end:
        raise BwlabError(f"schedule {text!r}", f"{_span_text(span)} ends before it begins", SCHEDULE_FORM)
    return span


def _number(word: str, text: str) -> float:
    if not word:
        raise BwlabError(f"schedule {text!r}", "a number is missing", SCHEDULE_FORM)
    try:
        return parse_number(word, "scale", text)
    except BwlabError as error:
        raise BwlabError(f"schedule {text!r}", f"{word!r}: {error.found}", SCHEDULE_FORM) from None


def _span_text(span: Span) -> str:
    return f"{number_text(span.begin)}-{number_text(span.end)}"
