"""The contract of commands that plugins add to the command line, clause by clause."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, TypeAlias

import typer
from typer.main import get_group

from bwlab.errors import BwlabError
from bwlab.testing.bench import require

# typer does not export click's errors, and newer versions have their own copy of click.
CLICK_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
HEAVY = ("torch", "diffusers", "transformers", "numpy", "scipy", "PIL")
NOWHERE = "no-such-folder/no-such-file"
SECONDS = 120


@dataclass(frozen=True)
class CommandBench:
    """The material of a clause: a command or a group of commands, as typer makes it, and the module that adds it.

    Attributes:
        name: what is typed after `bwlab`.
        command: the command of click.
        module: name of the plugin's module; empty for a plugin that is no module.

    """

    name: str
    command: Any
    module: str = ""

    def commands(self) -> Iterator[tuple[str, Any]]:
        """Yield (what is typed after `bwlab`, command) of the command, and of those in a group."""
        waiting = [(self.name, self.command)]
        while waiting:
            name, command = waiting.pop(0)
            yield name, command
            waiting += [(f"{name} {inner}", one) for inner, one in getattr(command, "commands", {}).items()]


def bench_of(plugin: ModuleType, name: str) -> CommandBench:
    """Return the command of a name that a plugin's module adds; `ContractBroken` if it adds none of that name."""
    app = typer.Typer()
    plugin.bwlab_register_commands(app)
    known = get_group(app).commands
    require(name in known, f"the plugin adds no command {name}; it adds {', '.join(known) or 'none'}")
    return CommandBench(name, known[name], plugin.__name__)


CommandClause: TypeAlias = Callable[[CommandBench], None]


def every_command_says_what_it_does(bench: CommandBench) -> None:
    """Each command has a help text: the docstring of its function."""
    for name, command in bench.commands():
        require(bool((command.help or "").strip()), f"bwlab {name} has no help; give its function a docstring")


def every_argument_says_what_it_is_for(bench: CommandBench) -> None:
    """Each argument and each option has a help text."""
    for name, command in bench.commands():
        for parameter in command.params:
            shown = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name.upper()
            require(bool((getattr(parameter, "help", "") or "").strip()), f"{shown} of bwlab {name} has no help")


def help_can_be_shown(bench: CommandBench) -> None:
    """`--help` of each command ends well and names the command."""
    for name, _ in bench.commands():
        done = _run(bench, [*name.split(" ")[1:], "--help"])
        require(done is None, f"bwlab {name} --help raises {_said(done)}")


def unknown_options_are_refused(bench: CommandBench) -> None:
    """An option that a command does not have is an error of the user, not of the command."""
    for name, command in bench.commands():
        if hasattr(command, "commands"):
            continue
        done = _run(bench, [*name.split(" ")[1:], "--no-such-option"])
        refused = isinstance(done, (CLICK_ERROR, BwlabError))
        require(refused, f"bwlab {name} --no-such-option is not refused: it raises {_said(done)}")


def arguments_that_name_nothing_end_in_one_line(bench: CommandBench) -> None:
    """With a file that does not exist for each argument, a command ends well, or raises `BwlabError`.

    The command runs in an empty folder.
    """
    for name, command in bench.commands():
        arguments = [one for one in command.params if one.required and one.param_type_name == "argument"]
        if arguments:
            with TemporaryDirectory() as folder, contextlib.chdir(folder):
                done = _run(bench, [*name.split(" ")[1:], *(NOWHERE for _ in arguments)])
            one_line = done is None or isinstance(done, (BwlabError, CLICK_ERROR, typer.Exit))
            require(one_line, f"bwlab {name} {NOWHERE} raises {_said(done)}, not BwlabError")


def importing_it_is_light(bench: CommandBench) -> None:
    """The plugin's module and the list of its commands load without torch, numpy and other heavy packages."""
    if not bench.module:
        return
    code = (
        "import importlib, sys, typer\n"
        f"plugin = importlib.import_module({bench.module!r})\n"
        "plugin.bwlab_register_commands(typer.Typer())\n"
        f"print(','.join(sorted({{*{HEAVY!r}}} & set(sys.modules))))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
    )
    require(done.returncode == 0, f"the module does not import by itself: {done.stderr.strip().splitlines()[-1:]}")
    loaded = done.stdout.strip()
    require(not loaded, f"importing the module imports {loaded}, which every command would wait for")


COMMAND_CLAUSES: tuple[CommandClause, ...] = (
    every_command_says_what_it_does,
    every_argument_says_what_it_is_for,
    help_can_be_shown,
    unknown_options_are_refused,
    arguments_that_name_nothing_end_in_one_line,
    importing_it_is_light,
)


def _run(bench: CommandBench, arguments: list[str]) -> BaseException | None:
    """Return what a command raises, or None; what it prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            bench.command.main(arguments, prog_name=f"bwlab {bench.name}", standalone_mode=False)
        except (Exception, SystemExit) as error:
            return error
    return None


def _said(error: BaseException | None) -> str:
    return "nothing" if error is None else f"{type(error).__name__}: {' '.join(str(error).split())}"
