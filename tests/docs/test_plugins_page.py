"""docs/plugins.md is complete, fresh, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from bwlab.plugins import hookspecs
from bwlab.plugins.manager import build_manager
from docs.generate import hook_rows, with_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
HOOKS = [name for name, _, _ in hook_rows()]


def test_hooks_of_core_and_analysis_are_found() -> None:
    assert {"bwlab_register_adapters", "bwlab_declare_hooks", "bwlab_register_block_metrics"} <= set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_heading(hook: str) -> None:
    assert f"\n### {hook}\n" in TEXT


def test_every_heading_is_a_hook() -> None:
    assert set(re.findall(r"^### (\w+)$", TEXT, re.MULTILINE)) == set(HOOKS)


def test_every_hook_says_what_it_is_for() -> None:
    assert [name for name, _, says in hook_rows() if not says.endswith(".")] == []


def test_the_table_is_fresh() -> None:
    assert with_table(TEXT) == TEXT, "run `make docs`"


@pytest.mark.parametrize("source", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_runs_and_every_plugin_in_it_loads(source: str) -> None:
    module = ModuleType(f"example_{abs(hash(source))}")
    exec(compile(source, str(PAGE), "exec"), module.__dict__)
    if "@hookimpl" in source:
        manager = build_manager([module])
        assert [record.error for record in manager.failed] == []
        assert manager.clashes == []


def test_every_hook_of_the_core_has_an_example() -> None:
    shown = {name for name in HOOKS if any(f"def {name}(" in source for source in EXAMPLES)}
    core = {name for name in vars(hookspecs) if name.startswith("bwlab_")}
    assert len(core) > 8
    assert core - shown == set()
