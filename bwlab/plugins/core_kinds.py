"""The kinds of plugins of the core, with their contracts; light to import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bwlab.formats.types import FormatReader, FormatWriter
from bwlab.plugins.kinds import CheckOptions, PluginKind

if TYPE_CHECKING:
    from bwlab.testing.contract import Outcome


@dataclass(frozen=True)
class AddedCommand:
    """A command or a group that a plugin adds.

    Attributes:
        name: what is typed after `bwlab`.
        command: the command of click.
        module: name of the plugin's module.

    """

    name: str
    command: Any
    module: str


def added_commands(register: Callable[..., Any], module: str) -> list[tuple[str, AddedCommand]]:
    """Return the commands that a plugin adds to an empty app, by name."""
    import typer
    from typer.main import get_group

    app = typer.Typer()
    register(app=app)
    return [(name, AddedCommand(name, command, module)) for name, command in get_group(app).commands.items()]


def check_adapter(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for an adapter type."""
    from bwlab.testing import run_contract

    return run_contract(given[0])


def check_command(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for a command."""
    from bwlab.testing import run_command_contract

    return run_command_contract(given[0].name, given[0].command, given[0].module)


def check_family(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for a model family; `BwlabError` without a base to check it on."""
    from bwlab.testing import run_family_contract

    return run_family_contract(given[0], options.base)


def check_format(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for the reader and the writer of a name."""
    from bwlab.testing import run_format_contract

    readers = [one for one in given if isinstance(one, FormatReader)]
    writers = [one for one in given if isinstance(one, FormatWriter)]
    return run_format_contract(next(iter(readers), None), next(iter(writers), None))


def check_fusion(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for a fusion method."""
    from bwlab.testing import run_fusion_contract

    return run_fusion_contract(given[0])


def check_optimizer(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for an optimiser."""
    from bwlab.testing import run_optimizer_contract

    return run_optimizer_contract(given[0])


def check_scheme(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for a block scheme; `BwlabError` if its finder gives no example."""
    from bwlab.testing import run_scheme_contract

    return run_scheme_contract(given[0])


def check_tagger(given: Sequence[Any], options: CheckOptions) -> list[Outcome]:
    """Return the outcome of each clause for a tagger; `BwlabError` if it does not load with these options."""
    from bwlab.testing import run_tagger_contract

    return run_tagger_contract(given[0], options.settings)


CORE_KINDS = (
    PluginKind("adapter", "adapter type", "bwlab_register_adapters", check_adapter),
    PluginKind("command", "command", "bwlab_register_commands", check_command, entries=added_commands),
    PluginKind("family", "model family", "bwlab_register_model_families", check_family),
    PluginKind("format", "file format", "bwlab_register_formats", check_format),
    PluginKind("fusion", "fusion method", "bwlab_register_fusions", check_fusion),
    PluginKind("optimizer", "optimiser", "bwlab_register_optimizers", check_optimizer),
    PluginKind("scheme", "block scheme", "bwlab_register_block_schemes", check_scheme),
    PluginKind("tagger", "tagger", "bwlab_register_taggers", check_tagger),
)
