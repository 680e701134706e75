"""docs/reference has a section for each public name; the site fills them from the code."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import bwlab
import bwlab_analysis.testing
from bwlab import testing
from bwlab.plugins import hookspecs
from bwlab_analysis import analyze
from bwlab_analysis import hookspecs as analysis_hookspecs

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md")}
NAMED = {name: re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE) for name, text in PAGES.items()}


def types_of_hooks(module: object) -> set[str]:
    """Return the classes of ours that the hooks of a module take and return, with their modules."""
    source = Path(str(getattr(module, "__file__", ""))).read_text(encoding="utf-8")
    imports = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))
    return {
        f"{node.module}.{alias.name}"
        for node in imports
        if str(node.module).startswith("bwlab")
        for alias in node.names
        if alias.name[0].isupper()
    }


def test_every_name_of_bwlab_has_a_section() -> None:
    sections = {*NAMED["bwlab"], *re.findall(r"^### `([\w.]+)`$", PAGES["bwlab"], re.MULTILINE)}
    assert [name for name in bwlab.__all__ if f"bwlab.{name}" not in sections] == []


def test_every_analysis_and_result_has_a_section() -> None:
    assert set(NAMED["analyze"]) == {f"bwlab_analysis.analyze.{name}" for name in analyze.__all__}


@pytest.mark.parametrize("module", [hookspecs, analysis_hookspecs], ids=["core", "analysis"])
def test_every_type_of_a_hook_has_a_section(module: object) -> None:
    assert types_of_hooks(module)
    assert sorted(types_of_hooks(module) - set(NAMED["plugins"])) == []


def test_every_contract_has_a_section() -> None:
    contracts = {
        f"{module.__name__}.{name}"
        for module in (testing, bwlab_analysis.testing)
        for name in module.__all__
        if name.endswith("Contract")
    }
    assert len(contracts) == 11
    assert contracts <= set(NAMED["plugins"])


@pytest.mark.parametrize("name", sorted(name for names in NAMED.values() for name in names))
def test_a_section_names_something_that_says_what_it_is(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute).__doc__
