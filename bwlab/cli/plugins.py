"""`bwlab plugins`: list plugins, check types, fusion methods and optimisers by their contracts, start a plugin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.terminal import echo

if TYPE_CHECKING:
    from rich.console import Group

    from bwlab.plugins.manager import PluginManager, PluginRecord

app = typer.Typer(help="List plugins, check adapter types, fusion methods and optimisers, or start a new plugin.")

KINDS = {
    "bwlab_declare_hooks": "hooks",
    "bwlab_register_adapters": "adapter",
    "bwlab_register_block_schemes": "blocks",
    "bwlab_register_formats": "format",
    "bwlab_register_fusions": "fusion",
    "bwlab_register_model_families": "family",
    "bwlab_register_optimizers": "optimiser",
    "bwlab_register_taggers": "tagger",
    "bwlab_register_commands": "commands",
    "bwlab_run_started": "training",
    "bwlab_step_finished": "training",
    "bwlab_checkpoint_saved": "training",
    "bwlab_run_finished": "training",
    "bwlab_extra_losses": "loss",
}
COMMANDS = "bwlab_register_commands"
# Hooks that plugins are asked when they are loaded.
CALLED_AT_LOADING = frozenset(
    {
        "bwlab_register_adapters",
        "bwlab_register_block_schemes",
        "bwlab_register_formats",
        "bwlab_register_fusions",
        "bwlab_register_model_families",
        "bwlab_register_optimizers",
        "bwlab_register_taggers",
    }
)
LONGEST_NAME = 22
COLOURS = {"loaded": "green", "failed": "red", "disabled": "dim"}

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def default_command(context: typer.Context, as_json: JsonOption = False) -> None:
    """List plugins, check adapter types, fusion methods and optimisers, or start a new plugin."""
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
        str, typer.Argument(help="Name of the adapter type, fusion method or optimiser, such as lora, switch or lion.")
    ],
) -> None:
    """Check an adapter type, fusion method or optimiser against its contract; the exit code is 1 if a check fails."""
    from bwlab.plugins.manager import installed_manager

    checks = contract_checks(name, installed_manager())
    if show_checks(name, checks):
        raise typer.Exit(1)


def contract_checks(name: str, manager: PluginManager) -> list[tuple[str, str | None]]:
    """Return every clause of a contract with None or what is broken, for what has this name.

    An adapter type comes before a fusion method of the same name, and that before an optimiser.
    """
    from bwlab.errors import BwlabError
    from bwlab.testing import run_contract, run_fusion_contract, run_optimizer_contract

    types, fusions, optimizers = manager.adapter_types(), manager.fusions(), manager.optimizers()
    if name in types:
        return run_contract(types[name])
    if name in fusions:
        return run_fusion_contract(fusions[name])
    if name in optimizers:
        return run_optimizer_contract(optimizers[name])
    try:
        return run_contract(manager.adapter_type(name))
    except BwlabError as error:
        known = f"Known fusion methods: {', '.join(sorted(fusions))}. Known optimisers: {', '.join(sorted(optimizers))}"
        raise BwlabError(error.asked, error.found, f"{known}. {error.fix}") from None


@app.command("new")
def new_command(
    name: Annotated[str, typer.Argument(help="Name of the adapter type, such as my-lora.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the project. [default: bwlab-NAME]")] = None,
) -> None:
    """Write a working plugin project with an adapter type and its test; nothing is overwritten."""
    from bwlab.plugins.manager import installed_manager
    from bwlab.plugins.scaffold import write_project

    folder = out if out is not None else Path(f"bwlab-{name}")
    taken = [record.name for record in installed_manager().records]
    for path in write_project(name, folder, taken):
        echo(f"wrote {path}")
    echo(f"next: pip install -e {folder} && bwlab plugins check {name}")


def kinds(record: PluginRecord) -> list[str]:
    """Return the kinds of a plugin: a word for each group of hooks that it implements; foreign hooks by their names."""
    words = [
        KINDS.get(hook, hook.removeprefix("bwlab_").removeprefix("register_").replace("_", " "))
        for hook in record.hooks
    ]
    return sorted(set(words))


def gives(record: PluginRecord, manager: PluginManager) -> tuple[list[str], list[str]]:
    """Return the names that a plugin registers, each once, and a line for each hook that raises when it is asked.

    Measures, metrics, scorers and whatever hooks of other plugins register are named too, and commands.
    """
    from bwlab.plugins.discovery import reason

    names = [given.name for given in record.registrations]
    broken = []
    for hook in record.hooks:
        if hook in CALLED_AT_LOADING or not hook.startswith("bwlab_register_"):
            continue
        try:
            names += _command_names(record, manager) if hook == COMMANDS else _named(record, manager, hook)
        except (Exception, SystemExit) as error:  # foreign code: it must not hide the other plugins
            broken.append(f"{record.name} of {record.source}: {hook}: {reason(error)}")
    return list(dict.fromkeys(names)), broken


def _command_names(record: PluginRecord, manager: PluginManager) -> list[str]:
    from typer.main import get_group

    own = typer.Typer()
    manager.caller_for(record, COMMANDS)(app=own)
    return [f"bwlab {name}" for name in get_group(own).commands]


def _named(record: PluginRecord, manager: PluginManager, hook: str) -> list[str]:
    return [str(given.name) for entries in manager.caller_for(record, hook)() for given in entries]


def as_dict(record: PluginRecord, manager: PluginManager) -> dict[str, object]:
    """Return a plugin's row of `bwlab plugins --json`."""
    return {
        "name": record.name,
        "kind": kinds(record),
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

    given = {record.name: gives(record, manager) for record in manager.records}
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
        words = (record.name, ", ".join(kinds(record)), ", ".join(names), record.source)
        table.add_row(*(Text(word) for word in words), state)
        if record.error:
            notes.append(Text(f"{record.name} of {record.source}: {record.error}", style="red"))
    return Group(table, *notes)


def show_checks(name: str, checks: Sequence[tuple[str, str | None]]) -> int:
    """Print one line for each check of the contract and return the number of failed checks."""
    for check, error in checks:
        echo(f"ok      {check}" if error is None else f"BROKEN  {check}: {error}")
    broken = sum(error is not None for _, error in checks)
    echo(f"{name}: {len(checks) - broken} of {len(checks)} checks hold")
    return broken
