"""The contract of commands finds commands that break it, clause by clause."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

from bwlab.testing import CommandContract, ContractBroken, run_command_contract
from bwlab.testing.commands import COMMAND_CLAUSES, bench_of

SOUND = '''
    from pathlib import Path
    from typing import Annotated

    import typer
    from bwlab import hookimpl
    from bwlab.errors import BwlabError

    LENIENT = ("ignore_unknown_options", "allow_extra_args")

    def own(
        file: Annotated[Path, typer.Argument(help="A file.")],
        often: Annotated[int, typer.Option(help="How often.")] = 1,
    ) -> None:
        """Count the lines of a file."""
        if not file.is_file():
            raise BwlabError(f"the lines of {file}", "no such file", "Give a file")
        typer.echo(str(often * len(file.read_text().splitlines())))

    @hookimpl
    def bwlab_register_commands(app):
        app.command("own")(own)
'''
GROUP = """
        group = typer.Typer(help="Files.")
        group.command("count")(own)
        group.command("other")(lambda: None)
        app.add_typer(group, name="own")
"""
HELP, ARGUMENTS, SHOWN = "every command says what it does", "every argument says what it is for", "help can be shown"
UNKNOWN, ONE_LINE = "unknown options are refused", "arguments that name nothing end in one line"
LIGHT = "importing it is light"
CHECK = 'raise BwlabError(f"the lines of {file}", "no such file", "Give a file")'


class Plugins:
    """A folder on `sys.path` for modules of plugins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []

    def module(self, source: str) -> ModuleType:
        """Write and import a module."""
        import importlib

        name = f"plugin_of_a_command_{len(self.names)}"
        self.names.append(name)
        (self.folder / f"{name}.py").write_text(dedent(source), encoding="utf-8")
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def outcomes(self, source: str) -> dict[str, str | None]:
        """Return the outcome of each clause for the command `own` of a module."""
        bench = bench_of(self.module(source), "own")
        return dict(run_command_contract(bench.name, bench.command, bench.module))


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    monkeypatch.syspath_prepend(tmp_path)
    made = Plugins(tmp_path)
    yield made
    for name in made.names:
        sys.modules.pop(name, None)


def test_the_kit_has_a_test_for_each_clause() -> None:
    tests = {name.removeprefix("test_") for name in vars(CommandContract) if name.startswith("test_")}
    assert tests == {clause.__name__ for clause in COMMAND_CLAUSES}


@pytest.mark.parametrize(
    ("old", "new", "clauses"),
    [
        ("", "", set()),
        ('"""Count the lines of a file."""', "", {HELP}),
        ('typer.Argument(help="A file.")', "typer.Argument()", {ARGUMENTS}),
        ('typer.Option(help="How often.")', "typer.Option()", {ARGUMENTS}),
        (CHECK, "pass", {ONE_LINE}),
        (CHECK, "raise SystemExit(3)", {ONE_LINE}),
        ("from pathlib import Path", "from pathlib import Path; import numpy", {LIGHT}),
        ('app.command("own")(own)', 'app.command("own", add_help_option=False)(own)', {SHOWN}),
        (
            'app.command("own")(own)',
            'app.command("own", context_settings=dict.fromkeys(LENIENT, True))(lambda: None)',
            {UNKNOWN, HELP},
        ),
        ('        app.command("own")(own)', GROUP.strip("\n"), {HELP}),
    ],
    ids=["sound", "no help", "argument", "option", "missing file", "exit", "numpy", "no --help", "any option", "group"],
)
def test_a_broken_command_is_found(plugins: Plugins, old: str, new: str, clauses: set[str]) -> None:
    assert old in SOUND
    assert {clause for clause, error in plugins.outcomes(SOUND.replace(old, new)).items() if error} == clauses


def test_the_reason_is_given(plugins: Plugins) -> None:
    checks = plugins.outcomes(SOUND.replace(CHECK, "pass"))
    assert "raises FileNotFoundError" in str(checks[ONE_LINE])
    assert checks[HELP] is None


def test_a_command_that_is_not_there_is_named(plugins: Plugins) -> None:
    with pytest.raises(ContractBroken, match="adds no command other; it adds own"):
        bench_of(plugins.module(SOUND), "other")


def test_a_plugin_s_test_suite_has_a_test_for_each_clause(plugins: Plugins) -> None:
    class TestOwn(CommandContract):
        plugin = plugins.module(SOUND)
        name = "own"

    for clause in COMMAND_CLAUSES:
        getattr(TestOwn(), f"test_{clause.__name__}")()
