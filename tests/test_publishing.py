"""What publishing a release needs: versions that agree, notes, workflows whose commands exist, a citation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bwlab import __version__
from docs.release_notes import ROOT, main, notes, versions

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CHANGELOG = """# Changelog

## Unreleased

- Later.

## 0.2.0 - 2027-01-01

### Added

- A thing.

## [0.1.0]

- The first release.
"""


def test_all_distributions_have_one_version() -> None:
    found = versions()
    assert set(found.values()) == {__version__}
    assert len(found) == 1 + len(list((ROOT / "plugins").glob("*/pyproject.toml")))


def test_notes_are_a_section_of_the_changelog() -> None:
    assert notes(CHANGELOG, "0.2.0") == "### Added\n\n- A thing.\n"
    assert notes(CHANGELOG, "0.1.0") == "- The first release.\n"
    for version in ("0.3.0", "0.2", "2.0"):
        with pytest.raises(ValueError, match=f"no section ## {version}"):
            notes(CHANGELOG, version)


def test_another_version_than_that_of_the_tree_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("99.0.0") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"release 99.0.0: . has the version {__version__}; plugins/bwlab_emoji has")


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_the_commands_of_a_workflow_exist(file: Path) -> None:
    workflow: dict[Any, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}, "each job says what more it needs"
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    commands = [step["run"] for step in steps if "run" in step]
    assert commands
    for command in commands:
        if command.startswith("make "):
            assert command.split()[1] in targets
        for module in re.findall(r"python -m (docs\.\w+)", command):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        if command.startswith(".ci/"):
            assert (ROOT / command).stat().st_mode & 0o111
    for step in steps:
        assert ("run" in step) != bool(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step.get("uses", "")))


def test_the_tested_versions_of_python_are_those_of_the_classifiers() -> None:
    (test,) = (file for file in WORKFLOWS if file.name == "test.yml")
    tested = yaml.safe_load(test.read_text(encoding="utf-8"))["jobs"]["test"]["strategy"]["matrix"]["python"]
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert tested == classifiers


def test_the_citation_names_the_method() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == "Apache-2.0"
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2403.07500"
    assert "version" not in citation, "a release would have to change it"
