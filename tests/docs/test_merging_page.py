"""The examples of docs/merging.md run, and its commands have the options that it gives them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from bwlab.cli.app import build_app
from docs.generate import own_manager

PAGE = Path(__file__).resolve().parents[2] / "docs" / "merging.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    bwlab (\w+) (.*)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("source", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_run(source: str) -> None:
    assert re.search(r"^assert ", source, re.MULTILINE), "it shows nothing that holds"
    exec(compile(source, str(PAGE), "exec"), {})


@pytest.mark.parametrize(("name", "rest"), COMMANDS, ids=range(len(COMMANDS)))
def test_options_are_there(name: str, rest: str) -> None:
    app, _ = build_app(own_manager())
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--[\w-]+", rest)) <= known


def test_the_page_has_examples() -> None:
    assert EXAMPLES
    assert len(COMMANDS) > 8
