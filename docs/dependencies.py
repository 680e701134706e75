"""What bwlab depends on, as pyproject.toml states it: the oldest versions, and the facts of the table in the docs.

`python -m docs.dependencies` prints pip's constraints to the oldest allowed versions, which `make oldest` installs.
`python -m docs.dependencies --installed` prints the version, size and licence of what is installed here. Both need
nothing but Python.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE, BUILD, DEV = "core", "build", "dev"
# The distributions of our own beside bwlab, and their folders.
PLUGINS = {f"bwlab-{name}": ROOT / "plugins" / f"bwlab_{name}" for name in ("emoji", "lycoris", "ui")}
OWN = {"bwlab", *PLUGINS}
REQUIREMENT = re.compile(r"([\w.-]+)(?:>=([\w.]+))?")
ROW = re.compile(
    r"^\| `([\w.-]+)` \| ([^|]*) \| ([\d.]+) \| ([^|]*) \| ([\d.,]+) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE
)


def requirements(folder: Path) -> dict[str, list[str]]:
    """Return what the pyproject.toml in a folder asks for, by `core`, `build` and the names of its extras."""
    content = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    project = content["project"]
    extras = project.get("optional-dependencies", {})
    return {CORE: project["dependencies"], BUILD: content["build-system"]["requires"], **extras}


def parsed(requirement: str) -> tuple[str, str]:
    """Return (name, lower bound) of `name>=bound`; `ValueError` for other forms."""
    found = REQUIREMENT.fullmatch(requirement)
    if found is None:
        raise ValueError(f"{requirement!r} is not of the form name>=bound")
    return found[1], found[2] or ""


def declared() -> dict[str, dict[str, str]]:
    """Return the lower bound in each part of each dependency: `{"onnxruntime": {"onnx": "1.18", "dev": "1.18"}}`."""
    parts = [*requirements(ROOT).items(), *((name, requirements(folder)[CORE]) for name, folder in PLUGINS.items())]
    every: dict[str, dict[str, str]] = {}
    for part, asked in parts:
        for name, bound in map(parsed, asked):
            if name not in OWN:
                every.setdefault(name, {})[part] = bound
    return every


def rows(page: str) -> dict[str, tuple[str, ...]]:
    """Return the cells of each row of the page's table after the name: parts, bound, use, MB, licence, alternatives."""
    return {found[1]: found.groups()[1:] for found in ROW.finditer(page)}


def constraints() -> Iterator[str]:
    """Yield `name==bound` for every dependency of the core, of its extras for users, and of our other plugins."""
    for name, bounds in sorted(declared().items()):
        chosen = [bound for part, bound in bounds.items() if part not in (BUILD, DEV)]
        if chosen:
            yield f"{name}=={chosen[0]}"


def normal(name: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def with_all_they_need(names: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """Return the installed ones of these distributions and of all that they need, by normal name; no extras."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [normal(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not installed, or for another system
        asked = [text for text in found[name].requires or [] if "extra ==" not in text]
        waiting += [normal(match[0]) for text in asked if (match := re.match(r"[\w.-]+", text))]
    return found


def megabytes(distribution: importlib.metadata.Distribution) -> float:
    """Return the size of a distribution's files, without bytecode, in 10**6 bytes."""
    paths = (Path(str(file.locate())) for file in distribution.files or [] if "__pycache__" not in file.parts)
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def licence(distribution: importlib.metadata.Distribution) -> str:
    """Return the licence that the metadata state: an expression, else classifiers, else the first line of a text."""
    stated = distribution.metadata
    if "License-Expression" in stated:
        return stated["License-Expression"]
    kinds = [kind for kind in stated.get_all("Classifier") or [] if kind.startswith("License ::")]
    classified = "; ".join(kind.rpartition(" :: ")[2] for kind in kinds)
    return classified or "".join(stated.get_all("License") or []).partition("\n")[0]


def installed() -> Iterator[str]:
    """Yield a line for each declared dependency that is installed: name, version, MB, licence; then the whole core."""
    for name in sorted(declared(), key=str.lower):
        for distribution in with_all_they_need([name]).values():
            if normal(distribution.name) == normal(name):
                yield f"{name} {distribution.version}: {megabytes(distribution):.1f} MB, {licence(distribution)}"
    core = with_all_they_need(parsed(text)[0] for text in requirements(ROOT)[CORE])
    yield f"core with all it needs: {len(core)} distributions, {sum(map(megabytes, core.values())):.0f} MB"


def main() -> None:
    """Print constraints to the oldest versions, or with `--installed` the facts of those that are here."""
    print("\n".join(installed() if "--installed" in sys.argv[1:] else constraints()))  # noqa: T201


if __name__ == "__main__":
    main()
