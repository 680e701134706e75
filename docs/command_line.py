"""The page docs/cli.md: every command, argument and option, read from the functions that typer runs.

What typer itself prints depends on its version and on the terminal; the functions' signatures do not.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import typer
from typer.models import ArgumentInfo, OptionInfo

from bwlab.cli.app import build_app
from bwlab.plugins.manager import PluginManager

VALUES = {str: "TEXT", int: "INTEGER", float: "FLOAT", Path: "PATH"}
STATED_DEFAULT = re.compile(r" ?\[default: (.*?)\]")
INTRODUCTION = """# Command line

Every command of bwlab, written by `make docs` from the code; `--help` shows the same. `python -m bwlab` is `bwlab`,
and `bwlab --install-completion` completes commands and options in your shell. Commands of separate
distributions have pages of their own: [`bwlab ui`](mixer.md), the block mixer, and [`bwlab base`](embedded-base.md),
which builds the embedded bases.

Results go to standard output: paths, tables, or with `--json` one document. Everything else goes to standard error:
progress, notes, warnings, and a user's mistake as one line that says what was asked, what was found and what to do.

| option before the command | what it does |
|---|---|
| `--quiet`, `-q` | leaves out progress and notes; warnings and errors are shown |
| `--log-format json` | one JSON object a line on standard error: `time` (UTC), `level` (`error`, `warning`, `note`, \
`progress`), `message`; errors have `asked`, `found` and `fix`, progress has `done`, `total`, `seconds_left` |
| `--debug` | shows the traceback of an error |

Work of more than two seconds shows a bar with the time left, or without a terminal a line after two seconds and every
half minute. Colours are left out without a terminal and where the environment variable `NO_COLOR` is set; `COLUMNS`
sets the width.

| exit code | meaning |
|---|---|
| 0 | the command did what was asked |
| 1 | the command is done, and something is broken: `bwlab doctor`, `bwlab plugins check`, images that `bwlab tag` \
left out |
| 2 | a mistake in what was asked, a file that cannot be used, or a full disk |
| 130 | stopped by Ctrl-C; `bwlab train` takes SIGTERM likewise, and saves a checkpoint first |
"""


@dataclass(frozen=True)
class Parameter:
    """An argument or an option.

    Attributes:
        names: as they are typed: `("--steps",)`, or an argument's name in capitals.
        value: what follows an option, `"INTEGER"`; empty for a flag and for an argument.
        default: as text; empty where there is none to tell.
        required: whether it must be given.
        says: its help.

    """

    names: tuple[str, ...]
    value: str
    default: str
    required: bool
    says: str

    @property
    def is_option(self) -> bool:
        """Whether it is typed with its name."""
        return self.names[0].startswith("-")


@dataclass(frozen=True)
class Command:
    """A command or a group, as it is typed, with the text of its help."""

    name: str
    says: str
    parameters: tuple[Parameter, ...]


def command_page(manager: PluginManager) -> str:
    """Return the whole page for bwlab with the plugins of `manager`."""
    app, _ = build_app(manager)
    return "\n".join([INTRODUCTION, *map(_section, commands(app, "bwlab"))])


def commands(app: typer.Typer, name: str) -> Iterator[Command]:
    """Yield an app itself, its commands, and its groups with theirs, in the order of registration."""
    callback = app.registered_callback.callback if app.registered_callback else None
    yield Command(name, str(app.info.help), _parameters(callback) if callback else ())
    for entry in app.registered_commands:
        if entry.name is None or entry.callback is None:
            raise ValueError(f"a command of {name} has no name: give app.command() one")
        yield Command(f"{name} {entry.name}", inspect.getdoc(entry.callback) or "", _parameters(entry.callback))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from commands(group.typer_instance, f"{name} {group.name}")


def _parameters(callback: Callable[..., object]) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(callback, include_extras=True)
    given = inspect.signature(callback).parameters.values()
    return tuple(_parameter(one, hints[one.name]) for one in given if typing.get_origin(hints[one.name]))


def _parameter(given: inspect.Parameter, hint: object) -> Parameter:
    kind, info = typing.get_args(hint)
    stated = STATED_DEFAULT.search(info.help)
    says = STATED_DEFAULT.sub("", info.help)
    required = given.default is inspect.Parameter.empty
    default = stated[1] if stated else _default(given.default, info.show_default)
    if isinstance(info, ArgumentInfo):
        return Parameter((info.metavar or given.name.upper(),), "", default, required, says)
    if not isinstance(info, OptionInfo):
        raise TypeError(f"{given.name} is neither an argument nor an option")
    # Inside Annotated typer reads the first name from where a default would stand.
    declared = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    names = tuple("/".join(declared).split("/")) if declared else (f"--{given.name.replace('_', '-')}",)
    default = names[0] if given.default is True else default
    value = "" if kind is bool else info.metavar or _value(kind)
    return Parameter(names, value, default, required, says + _range(info))


def _value(kind: object) -> str:
    """Return what an option of this type takes: for `X | None` and `list[X]` what one of type `X` does."""
    inner = [part for part in typing.get_args(kind) if part is not type(None)]
    if inner:
        return _value(inner[0])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(choice.value) for choice in kind)
    return VALUES[typing.cast(type, kind)]


def _range(info: OptionInfo) -> str:
    limits = {"at least": info.min, "at most": info.max}
    shown = ", ".join(f"{word} {limit}" for word, limit in limits.items() if limit is not None)
    return f" ({shown})" if shown else ""


def _default(value: object, shown: bool | str | None) -> str:
    if isinstance(shown, str):
        return shown
    if value is None or value is False or value in ("", inspect.Parameter.empty):
        return ""
    return value.as_posix() if isinstance(value, Path) else str(value)


def _section(command: Command) -> str:
    usage = [command.name, *(_usage(one) for one in command.parameters)]
    text = f"## {command.name}\n\n{command.says}\n\n    {' '.join(filter(None, usage))}\n"
    return f"{text}\n{_table(command.parameters)}" if command.parameters else text


def _usage(one: Parameter) -> str:
    """Return what the line of usage shows: arguments, and the options that must be given."""
    if one.is_option:
        return f"{one.names[0]} {one.value}" if one.required else ""
    return one.names[0] if one.required else f"[{one.names[0]}]"


def _table(parameters: tuple[Parameter, ...]) -> str:
    rows = ["| option or argument | default | meaning |", "|---|---|---|"]
    for one in parameters:
        typed = f"`{', '.join(one.names)}{' ' if one.value else ''}{one.value}`"
        default = "required" if one.required else f"`{one.default}`" if one.default else ""
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (typed, default, one.says)) + " |")
    return "\n".join(rows) + "\n"
