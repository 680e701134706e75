"""Terminal output that commands share: consoles, tables, progress bars, warnings, and words for numbers."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from operator import length_hint
from string import ascii_lowercase, ascii_uppercase
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar, cast

import typer

from bwlab.errors import BwlabError
from bwlab.messages import ProgressLines, RecordStream, current, fields_of, say
from bwlab.text import CONTROLS, HALVES, single_line, visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

Item = TypeVar("Item")

OnProgress = Callable[[int, int], None]  # called with (done, total)

PLAIN: Mapping[str, Any] = {"highlight": False, "markup": False, "emoji": False}
"""What rich would make of texts by itself, and leaves alone."""
WIDTH = 100  # columns of output that does not go to a terminal
LONGEST_LINE = 2000  # characters of an error or a warning; more of it comes from a file and helps nobody


def stdout_console() -> Console:
    """Return a console on standard output, as wide as the terminal or `COLUMNS`, else 100 columns; without markup."""
    return _console(stderr=False)


def stderr_console() -> Console:
    """Return a console on standard error, with the same rules as for standard output."""
    return _console(stderr=True)


def text_console(file: IO[str], width: int, colours: str | None = None) -> Console:
    """Return a console that writes to a file, with the same rules as for standard output.

    Args:
        file: where it writes.
        width: in columns.
        colours: rich's name of a system of colours; None for no colours.

    """
    style: dict[str, Any] = {"force_terminal": colours is not None, "color_system": colours}
    return _console_class()(file=file, width=width, **PLAIN, **style)


def _console(*, stderr: bool) -> Console:
    made, messages = _console_class(), current()
    options: dict[str, Any] = {"stderr": stderr, **PLAIN}
    if stderr:
        options["quiet"] = messages.quiet
        if messages.as_json:
            return made(
                **options, file=cast("IO[str]", RecordStream()), width=WIDTH, no_color=True, force_terminal=False
            )
    console = made(**options)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return made(**options, width=WIDTH)


@cache
def _console_class() -> type[Console]:
    """Return rich's console with text made `visible`: names and metadata come from strangers."""
    from rich.console import Console
    from rich.segment import Segment

    class VisibleConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(single_line(text), **options)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                shown = segment.control or not CONTROLS.search(segment.text)
                yield segment if shown else Segment(visible(segment.text), segment.style)

    return VisibleConsole


def echo(text: object, *, exact: bool = False, err: bool = False, nl: bool = True) -> None:
    """Print a line.

    Args:
        text: what is printed, made a `single_line`.
        exact: whether a program that reads the output gets the text as it is: a document or a path.
        err: whether it goes to standard error.
        nl: whether a line feed follows.

    """
    line, stream = str(text), sys.stderr if err else sys.stdout
    if not exact:
        line = single_line(line)
    elif stream.isatty() or HALVES.search(line):
        line = visible(line)
    typer.echo(line, err=err, nl=nl)


class ProgressBar:
    """A progress bar in a `with` block, with a text, the number of finished items, their total, and the time left.

    Without a terminal a line is printed now and then (`ProgressLines`); nothing is shown by a quiet call.

    Args:
        text: description, such as `"encoding images"`.
        total: number of items; None until `update` sets it.
        console: console on which the bar is drawn and messages may be printed above it; None: standard error.
        done: number of items that are already done.
        keep: whether to leave the bar on the screen at the end.

    """

    def __init__(
        self, text: str, total: int | None = None, *, console: Console | None = None, done: int = 0, keep: bool = False
    ) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = console or stderr_console()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        # Off a terminal a transient bar would leave an empty line before an error.
        self._progress = Progress(*columns, console=console, transient=not keep, disable=not console.is_terminal)
        self._task = self._progress.add_task(text, total=total, completed=done, detail="")
        self._lines = None if console.is_terminal or current().quiet else ProgressLines(text, total, done)

    def __enter__(self) -> Self:
        """Draw the bar."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop drawing."""
        self._progress.stop()

    def update(self, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` items are done, with a detail such as the name of the next item."""
        self._progress.update(self._task, completed=done, total=total, detail=detail)
        if self._lines is not None:
            self._lines.update(done, total, detail)

    def advance(self, detail: str = "") -> None:
        """Show that one more item is done."""
        self._progress.update(self._task, advance=1, detail=detail)
        if self._lines is not None:
            self._lines.update(self._lines.done + 1, self._lines.total, detail)


def track(items: Iterable[Item], text: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, with a progress bar on standard error while they are taken.

    Args:
        items: items of any kind.
        text: description, such as `"tagging images"`.
        total: number of items; None: `len(items)`.

    """
    with ProgressBar(text, total or length_hint(items) or None) as bar:
        for item in items:
            yield item
            bar.advance()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "module"), counted(3, "module")
    ('1 module', '3 modules')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def capital_letters(count: int) -> str:
    """Return the letters of the adapters in order, `"AB"` for two; `BwlabError` for more than 26."""
    if count > len(ascii_uppercase):
        raise BwlabError(f"a choice among {count} adapters", "letters end at Z", "Merge some of them first")
    return ascii_uppercase[:count]


def letters(count: int) -> list[str]:
    """Return the letters that name adapters: a, b ... z, a2, b2 ...

    >>> letters(3)
    ['a', 'b', 'c']
    """
    names = ascii_lowercase
    return [names[i % len(names)] + (str(i // len(names) + 1) if i >= len(names) else "") for i in range(count)]


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    say("warning", one_line(message))


def note(message: str) -> None:
    """Print one line on standard error that is worth knowing, unless the call is quiet."""
    say("note", one_line(message))


def print_error(error: BaseException | str) -> None:
    """Print one error line on standard error; the command goes on, or ends by itself."""
    more = fields_of(error) if isinstance(error, BaseException) else {}
    say("error", one_line(str(error)), **{name: one_line(text) for name, text in more.items()})


def one_line(message: str) -> str:
    """Return `message` made `visible`, with one space for each run of white space; a long one loses its middle.

    >>> one_line("first\\n  second")
    'first second'
    """
    line = visible(" ".join(message.split()))
    half = LONGEST_LINE // 2
    left_out = len(line) - 2 * half
    return line if left_out <= 0 else f"{line[:half]} [{left_out} more characters] {line[-half:]}"


def show_traceback(error: BaseException) -> None:
    """Print the traceback of `error` on standard error."""
    typer.echo(visible("".join(traceback.format_exception(error))), err=True, nl=False)
