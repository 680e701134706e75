"""Consoles, tables and progress bars of all commands."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from bwlab.terminal import WIDTH, ProgressBar, stderr_console, stdout_console, track


def terminal(width: int = 90) -> Console:
    """A console that takes itself for a terminal and keeps what is written to it."""
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_bar_shows_what_it_counts_how_much_is_done_and_the_time_left() -> None:
    console = terminal()
    with ProgressBar("encoding images", 20, console=console, done=5, keep=True) as bar:
        bar.advance()
        bar.update(7, 21, "[cat].png")
    last = written(console).rpartition("\x1b[2K")[2]
    for shown in ("encoding images", "7/21", "left", ":", "[cat].png"):
        assert shown in last


def test_nothing_is_shown_off_a_terminal() -> None:
    console = Console(file=io.StringIO())
    with ProgressBar("encoding images", 2, console=console, keep=True) as bar:
        bar.advance()
    with ProgressBar("encoding images", 2, console=console) as bar:
        bar.update(1, 2)
    assert written(console) == ""


def test_a_bar_that_is_not_kept_is_erased() -> None:
    console = terminal()
    with ProgressBar("encoding images", 2, console=console) as bar:
        bar.advance()
    assert "encoding images" not in written(console).rpartition("\x1b[2K")[2]


@pytest.mark.parametrize("total", [None, 3])
def test_items_pass_through_track_unchanged(total: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    def numbers() -> Iterator[int]:
        yield from (3, 1, 2)

    assert list(track(numbers(), "counting", total)) == [3, 1, 2]
    assert list(track([], "counting", total)) == []
    assert capsys.readouterr() == ("", "")


def test_off_a_terminal_output_is_as_wide_as_columns_say_else_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert stdout_console().width == stderr_console().width == WIDTH
    monkeypatch.setenv("COLUMNS", "66")
    assert stdout_console().width == stderr_console().width == 66


def test_texts_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    stdout_console().print("[bold]cat[/bold] :smile:")
    assert capsys.readouterr().out == "[bold]cat[/bold] :smile:\n"
