"""What commands say on standard error beside their result: as lines of text or of JSON, and how much of it."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import typer

from bwlab.errors import BwlabError

LINES_AFTER = 2.0
"""Seconds of work without a terminal before its first line of progress."""
LINES_EVERY = 30.0
"""Seconds between further lines of progress."""


class LogFormat(StrEnum):
    """The form of the lines."""

    TEXT = "text"
    JSON = "json"


@dataclass
class Messages:
    """How a call of the command line reports.

    Attributes:
        quiet: whether progress and notes are left out; warnings and errors are always printed.
        form: of the lines on standard error.

    """

    quiet: bool = False
    form: LogFormat = LogFormat.TEXT

    @property
    def as_json(self) -> bool:
        """Whether each line is a JSON object."""
        return self.form is LogFormat.JSON


_current = [Messages()]


def current() -> Messages:
    """Return how the call of the command line that is running reports."""
    return _current[-1]


@contextmanager
def reporting(messages: Messages) -> Iterator[None]:
    """Report in this way inside the `with` block."""
    _current.append(messages)
    try:
        yield
    finally:
        _current.pop()


def say(level: str, message: str, **more: object) -> None:
    """Print one line on standard error.

    Args:
        level: `"error"`, `"warning"` or `"note"`; notes are left out of quiet calls.
        message: one line.
        more: further fields of the JSON object.

    """
    if level == "note" and current().quiet:
        return
    if current().as_json:
        print_record(level, message, **more)
    else:
        typer.echo(f"bwlab: {level}: {message}", err=True)


def fields_of(error: BaseException) -> dict[str, str]:
    """Return the parts of an error for its JSON object."""
    if not isinstance(error, BwlabError):
        return {}
    return {"asked": error.asked, "found": error.found, "fix": error.fix}


def print_record(level: str, message: str, **more: object) -> None:
    """Print a line of JSON on standard error: the time (UTC), the level, the message, and further fields."""
    import json
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    typer.echo(json.dumps({"time": now, "level": level, "message": message, **more}), err=True)


class RecordStream(io.TextIOBase):
    """A text stream that prints each of its lines as a note in JSON."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        """Take text; every line feed ends a record."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.strip():
                print_record("note", line.rstrip())
        return len(text)


class ProgressLines:
    """Progress as lines on standard error, where no terminal draws a bar: from two seconds on, every half minute.

    Args:
        text: description, such as `"encoding images"`.
        total: number of items; None until `update` knows it.
        done: number of items that were done before.

    """

    def __init__(self, text: str, total: int | None, done: int) -> None:
        self.text, self.total, self.done, self._before = text, total, done, done
        self._start = self._last = time.monotonic()
        self._next = self._start + LINES_AFTER

    def update(self, done: int, total: int | None, detail: str = "") -> None:
        """Take how much is done; a line is printed if it is time for one.

        Where less is done than before, another stage has begun, whose speed says nothing of the earlier one's.
        """
        now = time.monotonic()
        if self.total is None and done > 1:  # the first to know the total: what is done then was done before
            self._before = done
        elif done < self.done:
            self._before, self._start = 0, self._last
        self.done, self.total, self._last = done, total, now
        if now < self._next:
            return
        self._next = now + LINES_EVERY
        left = self._seconds_left(now - self._start)
        if current().as_json:
            more: dict[str, object] = {} if left is None else {"seconds_left": round(left)}
            more |= {"detail": detail} if detail else {}
            print_record("progress", self.text, done=done, total=total, **more)
            return
        ends = [f"{self.text}: {done}" + (f" of {total}" if total else "")]
        ends += [] if left is None else [f"{_duration(left)} left"]
        typer.echo(", ".join([*ends, *([detail] if detail else [])]), err=True)

    def _seconds_left(self, seconds: float) -> float | None:
        made = self.done - self._before
        return seconds * (self.total - self.done) / made if self.total and made > 0 else None


def _duration(seconds: float) -> str:
    """Return a duration as minutes and seconds, or hours and minutes.

    >>> _duration(95), _duration(3700)
    ('1 min 35 s', '1 h 1 min')
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
