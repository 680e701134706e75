"""The frame of the command line: global options, the built-in commands, and those of plugins."""

from __future__ import annotations

import copy
import errno
import inspect
import platform
import sys
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command, get_command_name, get_group, get_group_from_info
from typer.models import CommandInfo, TyperInfo

from bwlab._version import __version__
from bwlab.errors import BwlabError, BwlabWarning, memory_shortage
from bwlab.messages import LogFormat, Messages, reporting
from bwlab.plugins.discovery import OURS, reason
from bwlab.plugins.manager import PluginManager, PluginRecord, build_manager, shared_manager
from bwlab.terminal import one_line, print_error, show_traceback, warn

HELP = "Train adapters into chosen blocks of a diffusion model, analyse them, and generate images with them."
# The built-in commands and groups of commands, in the order of the help. Each is a module of this package. The texts
# are their lines in `bwlab --help`, which imports none of the modules.
COMMANDS = {
    "train": "Train an adapter into chosen blocks of a base model.",
    "tag": "Write captions of comma-separated tags beside the images of a folder.",
    "generate": "Generate images with a base model and any number of adapters.",
    "blocks": "Show the blocks of a model, or translate block specs to and from the notations of other tools.",
    "inspect": "Show the contents of adapter files: dialect, algorithm, model, ranks and modules per block, training, "
    "and health.",
    "convert": "Convert an adapter file to another form, with the same deltas.",
    "merge": "Merge adapters into one, exactly or at a lower rank, or fold them into a base model.",
    "extract": "Extract the LoRA nearest to a fine-tuned model, by an SVD of each layer's difference from the base.",
    "doctor": "Check versions, devices, caches and plugins, and train and generate a little on the embedded base.",
}
GROUPS = {
    "data": "Check the images and captions to train an adapter on.",
    "config": "Show or write the settings of a training run.",
    "plugins": "List plugins, check what they register against its contract, or start a new plugin.",
}

# What makes a command take less memory.
LESS_MEMORY = {
    "train": "Give a smaller --batch-size, --set training.gradient_checkpointing=true, --precision bf16 or --quantize "
    "nf4; --plan-memory shows what each of them takes. A run with checkpoints continues with --resume",
    "generate": "Give a smaller --batch-size, --precision bf16, or a smaller --width and --height",
    "analyze": "Give --device cpu, or measure on less: fewer --samples, --latents or --timesteps",
}

# Commands of plugins that are published separately from bwlab -> how to install the plugin.
PLUGINS_OF_COMMANDS = {
    "base": "'bwlab[emoji]', or ./plugins/bwlab_emoji in a clone",
    "ui": "'bwlab[ui]', or ./plugins/bwlab_ui in a clone",
}

# The error that typer raises for arguments it cannot read. It is click's or typer's, depending on the version, and only
# a subclass is public.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
ClickError: type[Exception] = typer.BadParameter.__mro__[2]
"""The base class of such errors."""

# Errors of the file system, which are not defects of bwlab.
OF_THE_MACHINE = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOSPC, errno.EROFS})
# Warnings of numpy, which name no module of an adapter. Where such numbers are used, they are checked.
OF_ARITHMETIC = ("overflow encountered", "invalid value encountered", "divide by zero encountered")
# What the results of a training or the images depend on.
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy")
USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


@dataclass
class Frame:
    """The effect of the global options on one call of the command line.

    Attributes:
        failures: plugins that are left out, each with its exception if there is one.
        debug: whether tracebacks are shown.
        messages: how the call reports.

    """

    failures: Sequence[tuple[PluginRecord, BaseException | None]] = ()
    debug: bool = False
    messages: Messages = field(default_factory=Messages)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line on `arguments` (by default those of the process); always ends in `SystemExit`."""
    frame = Frame()
    with reporting(frame.messages):
        exit_on_error(lambda: _run(frame, arguments), lambda: frame.debug)


def build_app(
    manager: PluginManager, asked: str | None = None
) -> tuple[typer.Typer, list[tuple[PluginRecord, BaseException]]]:
    """Return the command line as a typer app, and the plugins whose commands had to be left out, with the reasons.

    Args:
        manager: the plugin manager.
        asked: the first word that was typed; see `build_group`.

    """
    plugged = plugin_commands(manager)
    app = _built_in_app(asked, plugged)
    for own in plugged.apps:
        app.registered_commands += own.registered_commands
        app.registered_groups += own.registered_groups
    return app, plugged.failures


def build_group(
    manager: PluginManager, asked: str | None = None
) -> tuple[TyperGroup, list[tuple[PluginRecord, BaseException]]]:
    """Return the command line, ready to run, and the plugins whose commands had to be left out, with the reasons.

    Args:
        manager: the plugin manager.
        asked: the first word that was typed. If it is a command, the other built-in commands are left out, because
            importing them takes time; if it is `--help`, bwlab's own commands have only their line of help.

    """
    plugged = plugin_commands(manager, asked)
    # Not `get_group`, which leaves out the completion of shells.
    group = get_command(_built_in_app(asked, plugged))
    assert isinstance(group, TyperGroup)
    group.commands.update(plugged.commands)
    _prepare_help(group)
    return group, plugged.failures


def _built_in_app(asked: str | None, plugged: PluginCommands) -> typer.Typer:
    app = typer.Typer(name="bwlab", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_global_options)
    names = {*COMMANDS, *GROUPS}
    for name in (*COMMANDS, *GROUPS):
        if asked == "--help":
            _add_summary(app, name)
        elif asked == name or asked not in names | {*plugged.commands}:
            module = import_module(f"bwlab.cli.{name}")
            if name in COMMANDS:
                app.command(name)(module.command)
            else:
                app.add_typer(module.app, name=name)
    return app


def _prepare_help(group: TyperGroup) -> None:
    """Put each paragraph of help on one line, and let options show the defaults that their help states in brackets.

    typer keeps the line breaks of a docstring, whatever the terminal, and takes brackets for rich's markup.
    """
    for command in group.commands.values():
        for parameter in command.params:
            if isinstance(parameter, (TyperArgument, TyperOption)) and parameter.help:
                parameter.help = parameter.help.replace("[default: ", "\\[default: ")
        paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
        command.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
        if isinstance(command, TyperGroup):
            _prepare_help(command)


def _add_summary(app: typer.Typer, name: str) -> None:
    """Add a command or a group that is listed but cannot be run."""
    if name in GROUPS:
        app.add_typer(typer.Typer(help=GROUPS[name]), name=name)
    else:
        app.command(name, help=COMMANDS[name])(lambda: None)


class NameTaken(ValueError):
    """Commands of a plugin have names that others have.

    Args:
        owners: each of the names, and the distribution that has it.

    """

    def __init__(self, owners: Mapping[str, str]) -> None:
        self.names = ", ".join(sorted(owners))
        known = (f"there is already a command {name} of {owners[name]}" for name in sorted(owners))
        super().__init__("; ".join(known))


@dataclass(frozen=True)
class PluginCommands:
    """The commands that plugins add.

    Attributes:
        apps: the app of each plugin, with the commands that it registered.
        commands: the same commands by name, ready to run.
        failures: plugins that have commands left out, with the reasons.
        owners: the distribution of each command's plugin, of commands that are left out because nobody asked too.

    """

    apps: list[typer.Typer]
    commands: dict[str, Any]
    failures: list[tuple[PluginRecord, BaseException]]
    owners: dict[str, str] = field(default_factory=dict)


def plugin_commands(manager: PluginManager, asked: str | None = None) -> PluginCommands:
    """Return the commands of all plugins.

    Each plugin first gets a separate app, so that a plugin that raises half-way or has a signature that typer cannot
    read does not spoil the commands of other plugins. Commands whose name is taken are left out; bwlab's own come
    first.
    """
    plugged = PluginCommands([], {}, [])
    for record, register in sorted(
        manager.each("bwlab_register_commands"), key=lambda plugin: plugin[0].distribution != OURS
    ):
        own = typer.Typer()
        try:
            register(app=own)
            if record.distribution == OURS:
                plugged.owners.update(dict.fromkeys(_leave_out_unasked(own, asked), OURS))
            elif asked in {*COMMANDS, *GROUPS, *plugged.owners, *plugged.commands}:
                _leave_out_signatures(own)
            commands = get_group(own).commands
        except (Exception, SystemExit) as error:  # foreign code: it must not cost the user any other command
            plugged.failures.append((record, error))
            continue
        taken = commands.keys() & {*COMMANDS, *GROUPS, *plugged.owners}
        if taken:
            plugged.failures.append((record, NameTaken({name: plugged.owners.get(name, OURS) for name in taken})))
            commands = {name: command for name, command in commands.items() if name not in taken}
            own.registered_commands = [entry for entry in own.registered_commands if _name(entry) in commands]
            own.registered_groups = [entry for entry in own.registered_groups if _name(entry) in commands]
        plugged.apps.append(own)
        plugged.commands.update(commands)
        plugged.owners.update(dict.fromkeys(commands, record.distribution))
        if record.distribution != OURS:
            for name, command in commands.items():
                _guard(name, command, record)
    return plugged


def _leave_out_unasked(own: typer.Typer, asked: str | None) -> list[str]:
    """Leave out what a call does not need of a plugin of bwlab's own, and return the names of the commands left out."""
    if asked == "--help":
        _leave_out_signatures(own)
    commands = {_name(command): command for command in own.registered_commands}
    groups = {_name(_without_commands(group)): group for group in own.registered_groups}
    names = {*commands, *groups}
    if asked not in names | {*COMMANDS, *GROUPS}:
        return []
    own.registered_commands = [command for name, command in commands.items() if name == asked]
    own.registered_groups = [group for name, group in groups.items() if name == asked]
    return sorted(names - {asked})


def _leave_out_signatures(own: typer.Typer) -> None:
    """Leave the names and the lines of help of an app's commands; reading their signatures takes time."""
    own.registered_groups = [_without_commands(group) for group in own.registered_groups]
    own.registered_commands = [_without_parameters(command) for command in own.registered_commands]


def _without_parameters(command: CommandInfo) -> CommandInfo:
    """Return a command with the same line of help and no parameters."""
    empty, callback = copy.copy(command), command.callback
    empty.name = _name(command)
    empty.help = command.help or (callback.__doc__ if callback else None)
    empty.callback = lambda: None
    return empty


def _without_commands(group: TyperInfo) -> TyperInfo:
    """Return a group with the same line of help and no commands."""
    empty, app = copy.copy(group), copy.copy(group.typer_instance)
    assert app is not None
    app.registered_commands, app.registered_groups = [], []
    empty.typer_instance = app
    return empty


def _name(entry: CommandInfo | TyperInfo) -> str:
    """Return the name of a command or a group of commands of a typer app."""
    if isinstance(entry, CommandInfo):
        return entry.name or get_command_name(getattr(entry.callback, "__name__", ""))
    group = get_group_from_info(entry, pretty_exceptions_short=True, suggest_commands=True, rich_markup_mode=None)
    return str(group.name)


def _guard(name: str, command: Any, record: PluginRecord) -> None:
    """Let a plugin's command report an error of its code in one line that names the plugin."""
    invoke = command.invoke

    def guarded(context: Any) -> object:
        try:
            return invoke(context)
        except (BwlabError, typer.Exit, typer.Abort, ClickError):
            raise
        except Exception as error:  # foreign code
            if (isinstance(error, OSError) and error.errno in OF_THE_MACHINE) or memory_shortage(error):
                raise
            found = f"plugin {record.name} of {record.source} raised {reason(error)}"
            fix = "Report it to the author of the plugin; bwlab --debug shows the traceback"
            raise BwlabError(f"bwlab {name}", found, fix) from error

    command.invoke = guarded


def _run(frame: Frame, arguments: Sequence[str] | None) -> None:
    typed = sys.argv[1:] if arguments is None else arguments
    first = _first_word(typed, frame.messages)
    manager = build_manager(registrations=first != "--help")
    command, unusable = build_group(manager, first)
    for record in manager.failed:
        warn(f"plugin {record.name} of {record.source} is not loaded: {record.error}")
    for record, error in unusable:
        plugin = f"of plugin {record.name} of {record.source}"
        if isinstance(error, NameTaken):
            warn(f"command {error.names} {plugin} is left out: {error}")
        else:
            warn(f"commands {plugin} are left out: {reason(error)}")
    for clash in manager.clashes:
        warn(str(clash))
    frame.failures = [*((record, record.cause) for record in manager.failed), *unusable]
    _require_plugin_of(first, command.commands)
    given = None if arguments is None else list(arguments)
    with _warnings_in_one_line(), shared_manager(manager):
        try:
            exit_as_asked(lambda: command.main(given, prog_name="bwlab", standalone_mode=False, obj=frame))
        except Exception as error:
            found = memory_shortage(error)
            if found is None:
                raise
            fix = LESS_MEMORY.get(first or "", "Close other programs, or use a machine with more memory")
            raise BwlabError(f"bwlab {first}", found, fix) from error


def _first_word(typed: Sequence[str], messages: Messages) -> str | None:
    """Return the first word that is no global option, or `--help`; errors in it are reported in the form asked for."""
    words = iter(typed)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--log-format":
            if (value if equals else next(words, None)) == LogFormat.JSON:
                messages.form = LogFormat.JSON
        elif word not in ("--debug", "--quiet", "-q"):
            return word
    return None


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print each `BwlabWarning` inside the `with` block as bwlab's own warnings, once, and none of arithmetic."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", BwlabWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, BwlabWarning):
                warn(str(message))
            elif not (issubclass(category, RuntimeWarning) and str(message).startswith(OF_ARITHMETIC)):
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


def _require_plugin_of(command: str | None, known: Container[str]) -> None:
    if command in PLUGINS_OF_COMMANDS and command not in known:
        fix = f"Install it: pip install {PLUGINS_OF_COMMANDS[command]}"
        raise BwlabError(f"bwlab {command}", "the plugin with this command is not installed", fix)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo("\n".join(versions()))
        raise typer.Exit


def versions() -> Iterator[str]:
    """Yield the version of bwlab, of Python, and of each library that results depend on, without importing any."""
    yield f"bwlab {__version__}"
    yield f"Python {platform.python_version()}"
    for name in LIBRARIES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"{name} is not installed"


def _global_options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Leave out progress and notes; errors and warnings are shown.")
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(help="Form of the lines on standard error: text, or json for one object a line.", metavar="FORM"),
    ] = LogFormat.TEXT,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the versions of bwlab and of the libraries that results depend on.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    frame = context.ensure_object(Frame)
    frame.debug = debug
    frame.messages.quiet, frame.messages.form = quiet, log_format
    for _, cause in frame.failures:
        if debug and cause is not None:
            show_traceback(cause)


def exit_on_error(call: Callable[[], None], debug: Callable[[], bool]) -> None:
    """Run `call`; exit with one line and code 2 for a `BwlabError` or an error of the file system, and 130 for Ctrl-C.

    Any other exception is a defect of bwlab or of a plugin and keeps its traceback.

    Args:
        call: the function to run.
        debug: called after an error; returns whether its traceback is shown.

    """
    try:
        call()
    except BwlabError as error:
        if debug():
            show_traceback(error)
        _fail(error)
    except OSError as error:
        if error.errno not in OF_THE_MACHINE or debug():
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror}. Check the path, its permissions and the disk")
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def exit_as_asked(call: Callable[[], object]) -> NoReturn:
    """Run typer's `main` with `standalone_mode=False` and exit as it would; report a wrong argument in one line.

    Raises:
        BwlabError: typer could not read the arguments.
        SystemExit: in all other cases.

    """
    try:
        code = call()
    except typer.Abort:
        raise SystemExit(INTERRUPTED) from None
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # it has shown the help
            raise SystemExit(USER_ERROR) from None
        raise usage_error(error) from error
    raise SystemExit(code if isinstance(code, int) else 0)


def foreign_option(command: str, option: str) -> tuple[str, str] | None:
    """Return what an option of another program is in a command, and whose it is; None for one that is unknown."""
    from bwlab.config.foreign_names import GENERATE_HINTS, HINTS, hint_for  # only errors need the tables

    known = {"train": (HINTS, "another trainer"), "generate": (GENERATE_HINTS, "another program")}
    hints, others = known.get(command, ({}, ""))
    hint = hint_for(option, hints)
    return None if hint is None else (hint, others)


def usage_error(error: Any) -> BwlabError:
    """Return typer's error about wrong arguments as a `BwlabError`."""
    path = error.ctx.command_path if error.ctx is not None else "bwlab"
    problems = getattr(error.__cause__, "errors", None)
    if problems is not None and error.param is not None:  # a value that pydantic checked: the message leaves it out
        problem = problems()[0]
        says = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should").rstrip(".")
        return BwlabError(f"{path}: {error.param.opts[0]} {problem['input']}", says, f"See {path} --help")
    option = getattr(error, "option_name", None)
    foreign = foreign_option(path.rpartition(" ")[2], option) if option is not None else None
    if foreign is not None:
        return BwlabError(f"{path} {option}", f"a name of {foreign[1]}", f"Here it is {foreign[0]}")
    found, near, meant = one_line(error.format_message()).partition(" Did you mean")
    found = found.rstrip(".")
    return BwlabError(path, found[:1].lower() + found[1:], f"{(near + meant).strip()} See {path} --help".strip())


def _fail(error: BwlabError | str) -> NoReturn:
    print_error(error)
    raise SystemExit(USER_ERROR)
