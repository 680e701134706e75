"""Tables of options: each row runs a command without and with one option and says how the two must differ."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bwlab.cli.app import main


@dataclass(frozen=True)
class Done:
    """What one call of the command line did.

    Attributes:
        code: exit code.
        out, err: what it printed.
        folder: the folder in which it ran.

    """

    code: int
    out: str
    err: str
    folder: Path

    def files(self, pattern: str = "**/*") -> list[Path]:
        """Return the files that lie in the folder afterwards, sorted."""
        return sorted(path for path in self.folder.glob(pattern) if path.is_file())

    def names(self) -> list[str]:
        """Return the paths of those files, relative to the folder."""
        return [path.relative_to(self.folder).as_posix() for path in self.files()]

    def file(self, pattern: str) -> Path:
        """Return the only file that a pattern matches."""
        (path,) = self.files(pattern)
        return path


NAME = re.compile(r"\{(\w+)\}")

Effect = Callable[[Done, Done], None]
"""Asserts how (the call without the option, the call with it) differ."""


Prepare = Callable[[Path], None]


def nothing(folder: Path) -> None:
    """Leave the folder of a call empty."""


@dataclass(frozen=True)
class Row:
    """An option and its effect.

    Attributes:
        option: the option as `--help` names it, or an argument as `<name>`.
        given: the arguments that give it, as a shell reads them; `{name}` stands for an entry of the world.
        effect: what must differ.
        also: arguments of both calls.
        instead: arguments of the call without the option only.
        before: arguments of a call of the same command that is made first in the folder of each call.
        common: arguments of both calls in place of those of the table.

    """

    option: str
    given: str
    effect: Effect
    also: str = ""
    instead: str = ""
    before: str = ""
    common: str | None = None


@dataclass(frozen=True)
class Table:
    """The rows of a command.

    Attributes:
        command: the words of the command.
        common: arguments of every call.
        rows: the rows, one or more for each option.
        prepare: writes what a call finds in its folder.

    """

    command: str
    common: str
    rows: Sequence[Row]
    prepare: Prepare = nothing

    def parameters(self) -> list[object]:
        """Return the rows as parameters of a test, named by their options."""
        return [pytest.param(self, row, id=f"{self.command} {row.option}") for row in self.rows]


@dataclass(frozen=True)
class Runner:
    """Runs commands, each in a new folder; a call that was made before is not made again.

    Attributes:
        world: name -> what `{name}` stands for.
        folder: folder of the calls' folders.
        done: the calls made so far, by their table and arguments.

    """

    world: Mapping[str, object]
    folder: Path
    done: dict[tuple[str, ...], Done] = field(default_factory=dict)

    def check(self, table: Table, row: Row) -> None:
        """Run a command without and with an option and check the effect."""
        shared = f"{table.common if row.common is None else row.common} {row.also}"
        without = self.run(table, f"{shared} {row.instead}", row.before)
        with_option = self.run(table, f"{shared} {row.given}", row.before)
        row.effect(without, with_option)

    def run(self, table: Table, arguments: str, before: str = "") -> Done:
        """Return what a table's command does with arguments, in a folder where it was called with those of `before`."""
        calls = [self.words(table, text) for text in (before, arguments) if text]
        known = tuple(word for call in calls for word in ("", *call))
        if known not in self.done:
            earlier = self.run(table, before) if before else None
            folder = self.folder / f"{len(self.done):03}"
            if earlier is not None:
                assert earlier.code == 0, earlier.err
                shutil.copytree(earlier.folder, folder)
            else:
                folder.mkdir()
                table.prepare(folder)
            self.done[known] = run_in(folder, calls[-1])
        return self.done[known]

    def words(self, table: Table, arguments: str) -> list[str]:
        """Return the words of a call of a table's command, with the world's entries in place of their names."""
        words = shlex.split(f"{table.command} {arguments}")
        return [NAME.sub(lambda found: str(self.world[found[1]]), word) for word in words]


def run_in(folder: Path, arguments: Sequence[str]) -> Done:
    """Run the command line in a folder, as the console script does, at 100 columns."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        columns("100"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main(arguments)
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue(), folder)


@contextlib.contextmanager
def columns(width: str) -> Iterator[None]:
    """Set the width of the terminal in a `with` block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "COLUMNS", width)
        yield
