"""docs/dependencies.md has a row for each dependency, with its lower bound, and names the licences there are."""

from __future__ import annotations

import importlib.metadata
import re

import pytest

from docs.dependencies import ROOT, constraints, declared, licence, parsed, rows, with_all_they_need

ROWS = rows((ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8"))
INSTALLED = with_all_they_need(declared())
# Metadata without a licence: MIT and Apache-2.0 in their licence files; an empty package.
UNSTATED = {"resvg-py", "atheris", "cuda-toolkit"}
# What a licence is called in metadata, by what it is.
FAMILIES = {
    "GPL": r"GPL|General Public",
    "Apache": r"Apache",
    "MIT": r"\bMIT\b",
    "BSD": r"BSD",
    "PSF": r"PSF|Python Software Foundation|matplotlib",
    "MPL": r"MPL|Mozilla",
    "ISC": r"ISC",
    "HPND": r"HPND",
    "NVIDIA": r"NVIDIA|Proprietary",
}


def families(text: str) -> set[str]:
    """Return the families of licences that a text names."""
    return {name for name, pattern in FAMILIES.items() if re.search(pattern, text)}


def test_each_dependency_has_a_row_and_each_row_a_dependency() -> None:
    assert len(ROWS) > 20
    assert set(ROWS) == set(declared())


@pytest.mark.parametrize(("name", "bounds"), declared().items(), ids=list(declared()))
def test_a_row_says_where_and_from_which_version(name: str, bounds: dict[str, str]) -> None:
    parts, bound, use, _, _, alternatives = ROWS[name]
    assert set(parts.split(", ")) == set(bounds)
    assert {bound} == set(bounds.values()), "the lower bound is not the same everywhere"
    assert use
    assert alternatives


def test_a_row_without_a_bound_is_none() -> None:
    row = "| `some-package` | core |  | something | 1.0 | MIT | none |"
    assert rows(row) == {}
    assert rows(row.replace("|  |", "| 1.2 |")) == {"some-package": ("core", "1.2", "something", "1.0", "MIT", "none")}


def test_other_forms_of_requirements_are_refused() -> None:
    assert parsed("ray>=2.9") == ("ray", "2.9")
    for text in ("ray>=2.9,<3", "ray==2.9", "ray[data]>=2.9"):
        with pytest.raises(ValueError, match="not of the form"):
            parsed(text)


def test_constraints_name_every_package_that_a_user_may_install() -> None:
    pinned = dict(line.split("==") for line in constraints())
    assert {"torch", "onnxruntime", "resvg-py"} <= set(pinned)
    assert not {"mypy", "hatchling"} & set(pinned)
    assert all(pinned.values())


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_all_that_is_installed_has_a_permissive_licence(name: str) -> None:
    found = families(licence(INSTALLED[name]))
    assert "GPL" not in found
    assert found or name in UNSTATED
    assert "NVIDIA" not in found or name.startswith(("nvidia-", "cuda-"))


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_table_names_the_licence(name: str) -> None:
    try:
        stated = families(licence(importlib.metadata.distribution(name)))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert families(ROWS[name][4]) & stated or name in UNSTATED
