"""`bwlab plugins`: list plugins, check by their contracts what they register, start a plugin."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.terminal import echo

if TYPE_CHECKING:
    from rich.console import Group

    from bwlab.errors import BwlabError
    from bwlab.plugins.kinds import CheckOptions, PluginKind
    from bwlab.plugins.manager import PluginManager, PluginRecord
    from bwlab.testing.contract import Outcome

app = typer.Typer(help="List plugins, check what they register against its contract, or start a new plugin.")

# Words for hooks of which no `PluginKind` tells.
OTHER_KINDS = {
    "bwlab_declare_hooks": "hooks",
    "bwlab_register_plugin_kinds": "kinds",
    "bwlab_run_started": "training",
    "bwlab_step_finished": "training",
    "bwlab_checkpoint_saved": "training",
    "bwlab_run_finished": "training",
    "bwlab_extra_losses": "loss",
}
COMMAND_KIND = "command"
KIND_NAMES = "adapter, command, conflict, family, format, fusion, metric, optimizer, scheme, scorer or tagger"
LONGEST_NAME = 22
COLOURS = {"loaded": "green", "failed": "red", "disabled": "dim"}

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def default_command(context: typer.Context, as_json: JsonOption = False) -> None:
    """List plugins, check what they register against its contract, or start a new plugin."""
    if context.invoked_subcommand is None:
        list_command(as_json)


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List the plugins with kind, distribution, version and state, and the reasons for failures."""
    from bwlab.plugins.manager import installed_manager
    from bwlab.terminal import stdout_console

    manager = installed_manager()
    if as_json:
        echo(json.dumps([as_dict(record, manager) for record in manager.records], indent=2), exact=True)
    else:
        console = stdout_console()
        console.print(plugin_table(manager, console.width))


@app.command("check")
def check_command(
    name: Annotated[
        str, typer.Argument(help="Name of what a plugin registers, such as lora, switch or lion, or of a plugin.")
    ],
    kind: Annotated[
        str | None, typer.Option(help=f"Check only what is of this kind: {KIND_NAMES}.", metavar="KIND")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of a small base, for a model family.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of a tagger, such as threshold=0.5.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Check what a plugin registers against its contract; the exit code is 1 if a check fails."""
    from bwlab.cli.tag import parsed_settings
    from bwlab.plugins.kinds import CheckOptions
    from bwlab.plugins.manager import installed_manager

    options = CheckOptions(base, dict(parsed_settings(settings or ())))
    results = contract_checks(name, installed_manager(), kind, options)
    if sum([show_checks(title, checks) for title, checks in results]):
        raise typer.Exit(1)


def contract_checks(
    name: str, manager: PluginManager, kind: str | None = None, options: CheckOptions | None = None
) -> list[tuple[str, list[Outcome]]]:
    """Return a title and every clause of the contract with None or what is broken, for all that has this name.

    If nothing that plugins register has the name, it is that of a plugin, and all that this registers is checked.

    Args:
        name: the name.
        manager: the plugins.
        kind: name of a kind, which everything else is left out for; None for all kinds.
        options: what checks need beside the name.

    Raises:
        BwlabError: there is nothing of this name, or a check needs more options.

    """
    from bwlab.plugins.kinds import CheckOptions

    kinds = manager.plugin_kinds() if kind is None else {kind: manager.plugin_kind(kind)}
    given = registered(manager, kinds.values())
    named = [entry for entry in given if entry.name == name] or [entry for entry in given if entry.plugin == name]
    if not named:
        raise nothing_to_check(name, manager, kind, [entry.name for entry in given])
    by_title: dict[str, list[Registered]] = {}
    for entry in named:
        by_title.setdefault(f"{entry.kind.called} {entry.name}", []).append(entry)
    return [
        (title, entries[0].kind.check([entry.given for entry in entries], options or CheckOptions()))
        for title, entries in by_title.items()
    ]


@dataclass(frozen=True)
class Registered:
    """An entry that a plugin registers: its name, its kind, the plugin's name, and the entry itself."""

    name: str
    kind: PluginKind
    plugin: str
    given: object


def registered(manager: PluginManager, kinds: Iterable[PluginKind]) -> list[Registered]:
    """Return all that plugins register of these kinds; a plugin whose hook raises is left out with a warning."""
    from bwlab.plugins.discovery import reason
    from bwlab.terminal import warn

    entries = []
    for kind in kinds:
        for record in manager.loaded:
            try:
                entries += [Registered(name, kind, record.name, given) for name, given in manager.entries(record, kind)]
            except (Exception, SystemExit) as error:  # foreign code: it must not hide the other plugins
                warn(f"the {kind.called} of plugin {record.name} of {record.source} is left out: {reason(error)}")
    return entries


def nothing_to_check(name: str, manager: PluginManager, kind: str | None, known: Sequence[str]) -> BwlabError:
    """Return the error that nothing of a name can be checked, with the nearest name that can."""
    from bwlab.errors import BwlabError, did_you_mean
    from bwlab.plugins.manager import INSTALL_LYCORIS, LYCORIS_TYPES

    asked = f"a check of {name!r}" + ("" if kind is None else f" of the kind {kind}")
    fix = "'bwlab plugins' shows what plugins register"
    record = next((record for record in manager.records if record.name == name), None)
    if record is not None and record.state == "failed":
        return BwlabError(asked, f"the plugin is not loaded: {record.error}", "Repair it first")
    if record is not None:
        return BwlabError(asked, "the plugin registers nothing that has a contract", fix)
    install = INSTALL_LYCORIS if name in LYCORIS_TYPES else did_you_mean(name, sorted(known))
    failed = f" (not loaded: {', '.join(one.name for one in manager.failed)})" if manager.failed else ""
    return BwlabError(asked, f"no plugin registers it{failed}", install + fix)


@app.command("new")
def new_command(
    name: Annotated[str, typer.Argument(help="Name of the plugin and of what it registers, such as my-lora.")],
    kind: Annotated[str, typer.Option(help=f"What it registers: {KIND_NAMES}.", metavar="KIND")] = "adapter",
    out: Annotated[Path | None, typer.Option(help="Folder of the project. [default: bwlab-NAME]")] = None,
) -> None:
    """Write a working plugin project of a kind, with its test; nothing is overwritten."""
    from bwlab.plugins.manager import installed_manager
    from bwlab.plugins.scaffold import write_project

    manager = installed_manager()
    folder = out if out is not None else Path(f"bwlab-{name}")
    wanted = manager.plugin_kind(kind)
    taken = {record.name for record in manager.records} | taken_names(manager, wanted)
    for path in write_project(name, folder, wanted, taken):
        echo(f"wrote {path}")
    echo(f"next: pip install -e {folder} && bwlab plugins check {name}")


def taken_names(manager: PluginManager, kind: PluginKind) -> set[str]:
    """Return the names of a kind that bwlab and the installed plugins have, also those of LyCORIS' adapter types."""
    from bwlab.cli.app import COMMANDS, GROUPS
    from bwlab.plugins.manager import LYCORIS_TYPES

    names = {COMMAND_KIND: {*COMMANDS, *GROUPS}, "adapter": {*LYCORIS_TYPES}}.get(kind.name, set())
    for record in manager.records:
        try:
            names |= {name for name, _ in manager.entries(record, kind)}
        except Exception:  # of a plugin that registers nothing then
            continue
    return names


def words_of_hooks(manager: PluginManager) -> dict[str, str]:
    """Return the word for the kind of each hook: the name of its `PluginKind`, if it has one."""
    return {**OTHER_KINDS, **{kind.hook: kind.name for kind in manager.plugin_kinds().values()}}


def kinds_of(record: PluginRecord, words: Mapping[str, str]) -> list[str]:
    """Return the kinds of a plugin: a word for each group of hooks that it implements; other hooks by their names."""
    kinds = [
        words.get(hook, hook.removeprefix("bwlab_").removeprefix("register_").replace("_", " "))
        for hook in record.hooks
    ]
    return sorted(set(kinds))


def gives(record: PluginRecord, manager: PluginManager) -> tuple[list[str], list[str]]:
    """Return the names that a plugin registers, each once, and a line for each hook that raises when it is asked.

    What hooks of other plugins register is named too, if it has names; kinds of plugins are not named.
    """
    from bwlab.plugins.discovery import reason
    from bwlab.plugins.kinds import by_name

    kinds = {kind.hook: kind for kind in manager.plugin_kinds().values()}
    names: list[str] = []
    broken = []
    for hook in record.hooks:
        if not hook.startswith("bwlab_register_") or hook in OTHER_KINDS:
            continue
        try:
            if hook in kinds:
                own = manager.entries(record, kinds[hook])
                names += [f"bwlab {name}" if kinds[hook].name == COMMAND_KIND else name for name, _ in own]
            else:
                names += [name for name, _ in by_name(manager.caller_for(record, hook), "")]
        except (Exception, SystemExit) as error:  # foreign code: it must not hide the other plugins
            broken.append(f"{record.name} of {record.source}: {hook}: {reason(error)}")
    return list(dict.fromkeys(names)), broken


def as_dict(record: PluginRecord, manager: PluginManager) -> dict[str, object]:
    """Return a plugin's row of `bwlab plugins --json`."""
    return {
        "name": record.name,
        "kind": kinds_of(record, words_of_hooks(manager)),
        "gives": gives(record, manager)[0],
        "distribution": record.distribution,
        "version": record.version,
        "state": record.state,
        "error": record.error or None,
    }


def plugin_table(manager: PluginManager, width: int = 80) -> Group:
    """Return the table of all plugins, with a line below for each failed plugin and each name registered twice.

    Args:
        manager: the plugins.
        width: columns of the terminal; the table has all of its columns from 80 on.

    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    given, words_of = {record.name: gives(record, manager) for record in manager.records}, words_of_hooks(manager)
    longest = max((len(name) for names, _ in given.values() for name in names), default=0)
    wider = max(0, width - 80) // 3
    most = {"plugin": 14 + wider, "kind": 13 + wider, "distribution": 14 + wider}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("plugin", "kind", "gives", "distribution", "state"):
        least = min(longest + 1, LONGEST_NAME) if head == "gives" else None
        table.add_column(head, overflow="fold", no_wrap=head == "state", min_width=least, max_width=most.get(head))
    notes = [Text(f"{error}", style="yellow") for error in manager.clashes]
    for record in manager.records:
        state = Text(record.state, style=COLOURS[record.state])
        names, broken = given[record.name]
        notes += [Text(line, style="red") for line in broken]
        words = (record.name, ", ".join(kinds_of(record, words_of)), ", ".join(names), record.source)
        table.add_row(*(Text(word) for word in words), state)
        if record.error:
            notes.append(Text(f"{record.name} of {record.source}: {record.error}", style="red"))
    return Group(table, *notes)


def show_checks(title: str, checks: Sequence[Outcome]) -> int:
    """Print one line for each check of the contract and return the number of failed checks."""
    for check, error in checks:
        echo(f"ok      {check}" if error is None else f"BROKEN  {check}: {error}")
    broken = sum(error is not None for _, error in checks)
    echo(f"{title}: {len(checks) - broken} of {len(checks)} checks hold")
    return broken
