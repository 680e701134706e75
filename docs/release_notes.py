"""Print the notes of a release: `python -m docs.release_notes 0.1.0`; fail if the tree is not that release.

It needs nothing but Python, so that a release can be built without bwlab's dependencies.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notes(changelog: str, version: str) -> str:
    """Return the section of a version in CHANGELOG.md, without its heading.

    Raises:
        ValueError: there is no such section, or it is empty.

    """
    found = re.search(rf"(?ms)^## \[?{re.escape(version)}(?![\w.])[^\n]*\n(.*?)(?=^## |\Z)", changelog)
    if found is None or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no section ## {version}")
    return found[1].strip() + "\n"


def versions(root: Path = ROOT) -> dict[str, str]:
    """Return the version of each distribution, by the folder of its pyproject.toml."""
    found = {".": _version_in((root / "bwlab" / "_version.py").read_text(encoding="utf-8"))}
    for file in sorted((root / "plugins").glob("*/pyproject.toml")):
        project = tomllib.loads(file.read_text(encoding="utf-8"))
        stated = project["project"].get("version")
        source = project.get("tool", {}).get("hatch", {}).get("version", {}).get("path")
        found[f"plugins/{file.parent.name}"] = stated or _version_in((file.parent / source).read_text(encoding="utf-8"))
    return found


def _version_in(text: str) -> str:
    found = re.search(r'(?m)^__version__ = "([^"]+)"$', text)
    if found is None:
        raise ValueError("a file states no __version__")
    return found[1]


def main(version: str) -> int:
    """Print the notes of a version, or what is wrong on standard error; return the exit code."""
    others = {folder: own for folder, own in versions().items() if own != version}
    try:
        if others:
            raise ValueError("; ".join(f"{folder} has the version {own}" for folder, own in others.items()))
        sys.stdout.write(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version))
    except ValueError as error:
        sys.stderr.write(f"release {version}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
