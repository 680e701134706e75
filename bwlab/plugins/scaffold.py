"""Write a plugin project to start from: a package with an entry point, an adapter type, and its test."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path

from bwlab._version import __version__
from bwlab.errors import BwlabError

FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "{{package}}/__init__.py": "init.py.txt",
    "{{package}}/plugin.py": "plugin.py.txt",
    "{{package}}/layer.py": "layer.py.txt",
    "tests/test_contract.py": "test_contract.py.txt",
}
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write_project(name: str, folder: Path, taken: Collection[str] = ()) -> list[Path]:
    """Write a plugin project for the adapter type `name` and return the files written.

    Args:
        name: words of lower-case letters and digits joined by hyphens, `"my-lora"`.
        folder: folder to create; if it exists, it must be empty.
        taken: names of existing plugins.

    Raises:
        BwlabError: the name does not have that form or is taken, or the folder is not empty.

    """
    _check(name, folder, taken)
    words = {
        "name": name,
        "package": f"bwlab_{name.replace('-', '_')}",
        "class": f"{''.join(word.capitalize() for word in name.split('-'))}Layer",
        "version": __version__,
    }
    written = []
    for path, template in FILES.items():
        target = folder / _filled(path, words)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = files("bwlab").joinpath("data", "plugin_project", template).read_text(encoding="utf-8")
        with target.open("x", encoding="utf-8") as file:
            file.write(_filled(text, words))
        written.append(target)
    return written


def _check(name: str, folder: Path, taken: Collection[str]) -> None:
    if not NAME.fullmatch(name):
        form = "Use lower-case letters, digits and single hyphens, and start with a letter, as in my-lora"
        raise BwlabError(f"a plugin named {name!r}", "this is not a valid package name", form)
    if name in taken:
        raise BwlabError(f"a plugin named {name!r}", "an installed plugin has that name", "Choose another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "the folder is not empty" if folder.is_dir() else "it is a file"
        raise BwlabError(f"a plugin project in {folder}", found, "Give a new folder with --out")


def _filled(text: str, words: dict[str, str]) -> str:
    for key, value in words.items():
        text = text.replace("{{" + key + "}}", value)
    return text
