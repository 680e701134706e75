"""A progress bar on standard error, for commands that take minutes."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from rich.table import Table


Item = TypeVar("Item")

OnStep = Callable[[int, int], None]

WIDTH = 100


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function that is told (done, in all, what comes now); off a terminal it shows nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def advance(done: int, total: int, name: str) -> None:
            progress.update(task, completed=done, total=total, description=f"{what} {name}"[:60])

        yield advance


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "module"), counted(3, "module")
    ('1 module', '3 modules')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tracked(items: Sequence[Item], console: Console, text: str) -> Iterable[Item]:
    """Return the items, with a progress bar on the console while they are taken; none where it is no terminal."""
    from rich.progress import track

    if not console.is_terminal:
        return items
    return track(items, text, console=console, transient=True)


@contextmanager
def progress_bar(console: Console, text: str) -> Iterator[Callable[[int], Callable[[], None]]]:
    """Inside the `with` block: give a total to start the bar, and get what advances it by one."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Off a terminal a transient bar would leave an empty line before the error.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def start(total: int) -> Callable[[], None]:
            task = progress.add_task(text, total=total)
            return lambda: progress.advance(task)

        yield start


def open_console() -> Console:
    """Standard output; as wide as the tables where it is no terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=WIDTH)


def new_table(heads: Sequence[str]) -> Table:
    """Return an empty table in the style of all reports, with these column heads."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    return table


def capital_letters(count: int) -> str:
    """Return what the adapters are called, in order: `"AB"` for two; `BwlabError` for more than 26."""
    if count > len(ascii_uppercase):
        raise BwlabError(f"a choice among {count} adapters", "letters end at Z", "Merge some of them first")
    return ascii_uppercase[:count]


def letters(count: int) -> list[str]:
    """Return the letters that adapters are called by: a, b ... z, a2, b2 ...

    >>> letters(3)
    ['a', 'b', 'c']
    """
    names = ascii_lowercase
    return [names[i % len(names)] + (str(i // len(names) + 1) if i >= len(names) else "") for i in range(count)]


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    typer.echo(f"bwlab: warning: {one_line(message)}", err=True)


def one_line(message: str) -> str:
    """Return `message` with each run of white space made one blank.

    >>> one_line("first\\n  second")
    'first second'
    """
    return " ".join(message.split())


def show_traceback(error: BaseException) -> None:
    """Print the traceback of `error` on standard error."""
    typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)


@contextmanager
def sampling_bar(console: Console, text: str) -> Iterator[OnStep]:
    """Draw a progress bar while the block runs; yields what moves it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
