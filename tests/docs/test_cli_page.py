"""docs/cli.md is what the command line says today."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from bwlab.cli.app import build_app
from bwlab.optimizers.types import DEFAULT_RATE
from bwlab.training.config import TrainConfig
from docs.command_line import command_page
from docs.generate import own_manager

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
TEXT = PAGE.read_text(encoding="utf-8")
OF_EVERY_COMMAND = {"--help", "--install-completion", "--show-completion"}


def parsed() -> Iterator[tuple[str, set[str]]]:
    """Each command as typed, and what can be typed after it, as the parser that typer builds has them."""
    waiting: list[tuple[str, Any]] = [("bwlab", get_command(build_app(own_manager())[0]))]
    while waiting:
        name, command = waiting.pop()
        words = {
            word
            for one in command.params
            for word in ([*one.opts, *one.secondary_opts] if one.param_type_name == "option" else [one.name.upper()])
        }
        yield name, words - OF_EVERY_COMMAND
        waiting += [(f"{name} {inner}", one) for inner, one in getattr(command, "commands", {}).items()]


PARSED = dict(parsed())


def section(name: str) -> str:
    """Return the page's section on one command."""
    return re.split(r"^## ", TEXT.split(f"\n## {name}\n")[1], flags=re.MULTILINE)[0]


def test_the_page_is_fresh() -> None:
    assert command_page(own_manager()) == TEXT, "run `make docs`"


def test_the_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert command_page(own_manager()) == TEXT


def test_the_page_has_every_command_and_no_other() -> None:
    assert set(re.findall(r"^## (.+)$", TEXT, re.MULTILINE)) == set(PARSED)


@pytest.mark.parametrize("name", sorted(PARSED))
def test_a_section_has_what_the_parser_takes(name: str) -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", section(name), re.MULTILINE)
    typed = {word for row in rows for word in re.findall(r"(?<!\S)--?[a-z-]+|^[A-Z]+$", row)}
    assert typed == PARSED[name]


@pytest.mark.parametrize(
    ("option", "default"),
    [
        ("--base TEXT", TrainConfig().base),
        ("--adapter TEXT", TrainConfig().adapter.type),
        ("--blocks SPEC", TrainConfig().adapter.blocks),
        ("--steps INTEGER", TrainConfig().training.steps),
        ("--batch-size INTEGER", TrainConfig().training.batch_size),
        ("--lr FLOAT", DEFAULT_RATE),
        ("--seed INTEGER", TrainConfig().training.seed),
    ],
)
def test_the_defaults_of_train_that_help_states_are_those_of_its_settings(option: str, default: object) -> None:
    stated = re.search(rf"^\| `{option}` \| `([^`]+)` \|", section("bwlab train"), re.MULTILINE)
    assert stated is not None
    number = isinstance(default, int | float)
    assert (float(stated[1]) if number else stated[1]) == default


def test_everything_says_what_it_is_for() -> None:
    assert [line for line in TEXT.splitlines() if re.fullmatch(r"\| `[^`]+` \|.*\|\s*\|", line)] == []
