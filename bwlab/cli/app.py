"""The frame of the command line: global options, the built-in commands, and those of plugins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

import typer
from typer.main import get_command, get_group

from bwlab import __version__
from bwlab.cli.errors import exit_as_asked, exit_on_error, show_traceback, warn
from bwlab.loading import reason
from bwlab.plugins import PluginManager, PluginRecord, build_manager

HELP = "Train adapters into chosen blocks of a diffusion UNet, look inside them, generate with them."
# The built-in commands and groups of commands, in the order of the help, each a module of this package.
COMMANDS = ("train", "tag", "generate", "blocks", "inspect", "convert", "merge", "extract", "demo")
GROUPS = ("data", "config", "base", "plugins")


@dataclass
class Frame:
    """What the global options decide, for one call of the command line.

    Attributes:
        failures: plugins that are left out, each with its exception where there is one.
        debug: whether tracebacks are shown.
    """

    failures: Sequence[tuple[PluginRecord, BaseException | None]] = ()
    debug: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line on ``arguments`` (by default those of the process); always ends in ``SystemExit``."""
    frame = Frame()
    exit_on_error(lambda: _run(frame, arguments), lambda: frame.debug)


def build_app(
    manager: PluginManager, asked: str | None = None
) -> tuple[typer.Typer, list[tuple[PluginRecord, BaseException]]]:
    """Return the command line, and the plugins whose commands had to be left out with the reason of each.

    Args:
        manager: of the plugins.
        asked: a command. Where there is such a one, the built-in ones beside it are left out, whose import takes time.
    """
    app = typer.Typer(name="bwlab", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_global_options)
    plugged, taken, failures = plugin_commands(manager)
    for name in (*COMMANDS, *GROUPS):
        if asked == name or asked not in taken:
            module = import_module(f"bwlab.cli.{name}")
            if name in COMMANDS:
                app.command(name)(module.command)
            else:
                app.add_typer(module.app, name=name)
    app.registered_commands += plugged.registered_commands
    app.registered_groups += plugged.registered_groups
    return app, failures


def plugin_commands(manager: PluginManager) -> tuple[typer.Typer, set[str], list[tuple[PluginRecord, BaseException]]]:
    """Return the commands of all plugins, all names that are taken, and the plugins that failed, with nothing of them.

    Each plugin gets an app of its own first: one that raises half-way, takes a name that exists, or has a signature
    that typer cannot read must not spoil the commands of others.
    """
    app = typer.Typer()
    failures: list[tuple[PluginRecord, BaseException]] = []
    taken = {*COMMANDS, *GROUPS}
    for record, register in manager.each("bwlab_register_commands"):
        own = typer.Typer()
        try:
            register(app=own)
            names = set(get_group(own).commands)
            if names & taken:
                raise ValueError(f"there is a command {', '.join(sorted(names & taken))} already")
        except (Exception, SystemExit) as error:  # foreign code: it must not cost the user any other command
            failures.append((record, error))
            continue
        taken |= names
        app.registered_commands += own.registered_commands
        app.registered_groups += own.registered_groups
    return app, taken, failures


def _run(frame: Frame, arguments: Sequence[str] | None) -> None:
    manager = build_manager()
    typed = sys.argv[1:] if arguments is None else arguments
    app, unusable = build_app(manager, next((word for word in typed if word != "--debug"), None))
    for record in manager.failed:
        warn(f"plugin {record.name} of {record.source} is not loaded: {record.error}")
    for record, error in unusable:
        warn(f"commands of plugin {record.name} of {record.source} are left out: {reason(error)}")
    frame.failures = [*((record, record.cause) for record in manager.failed), *unusable]
    command = get_command(app)
    given = None if arguments is None else list(arguments)
    exit_as_asked(lambda: command.main(given, prog_name="bwlab", standalone_mode=False, obj=frame))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bwlab {__version__}")
        raise typer.Exit


def _global_options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    frame = context.ensure_object(Frame)
    frame.debug = debug
    for _, cause in frame.failures:
        if debug and cause is not None:
            show_traceback(cause)
