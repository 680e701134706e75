"""Every option and argument of every command has a row in the tables of this folder, and every row an option."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bwlab.cli.app import build_group
from bwlab.plugins.manager import build_manager
from tests.options import (
    test_analysis_options,
    test_data_options,
    test_emoji_options,
    test_file_options,
    test_generate_options,
    test_train_options,
    test_ui_options,
)

MODULES = (
    test_analysis_options,
    test_data_options,
    test_emoji_options,
    test_file_options,
    test_generate_options,
    test_train_options,
    test_ui_options,
)
OF_EVERY_COMMAND = {"--help"}


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield each command, and each group that has options, with the words that call it."""
    if options(group):
        yield " ".join(words), group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def options(command: Any) -> set[str]:
    """Return the options and arguments of a command as rows name them."""
    names = {
        f"<{one.name}>" if one.param_type_name == "argument" else one.opts[-1]
        for one in command.get_params(command.make_context("x", [], resilient_parsing=True))
    }
    return names - OF_EVERY_COMMAND


def test_every_option_has_a_row_and_every_row_an_option() -> None:
    group, failures = build_group(build_manager())
    assert not failures
    rows: dict[str, set[str]] = {}
    for module in MODULES:
        for table in module.TABLES:
            rows.setdefault(table.command, set()).update(row.option.partition(" ")[0] for row in table.rows)
    assert rows == {name: options(command) for name, command in commands(group)}
