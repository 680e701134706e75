"""Write a plugin project to start from: a package with an entry point, one thing that it registers, and its test."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from bwlab._version import __version__
from bwlab.errors import BwlabError
from bwlab.plugins.kinds import PluginKind

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
PROJECTS = ("data", "plugin_project")
COMMON = {"pyproject.toml": "pyproject.toml.txt", "{{package}}/__init__.py": "init.py.txt"}
TEMPLATE = ".txt"


def write_project(name: str, folder: Path, kind: PluginKind, taken: Collection[str] = ()) -> list[Path]:
    """Write a plugin project that registers an entry `name` of a kind, and return the files written.

    Args:
        name: words of lower-case letters and digits joined by hyphens, `"my-lora"`.
        folder: folder to create; if it exists, it must be empty.
        kind: what the plugin registers.
        taken: names of existing plugins.

    Raises:
        BwlabError: the name does not have that form or is taken, the folder is not empty, or the kind has no project.

    """
    _check(name, folder, taken)
    words = {
        "name": name,
        "package": f"bwlab_{name.replace('-', '_')}",
        "class": "".join(word.capitalize() for word in name.split("-")),
        "word": name.replace("-", "_"),
        "called": kind.called,
        "version": __version__,
    }
    written = []
    for path, text in list(_templates(kind)):
        target = folder / _filled(path, words)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(_filled(text, words))
        written.append(target)
    return written


def _check(name: str, folder: Path, taken: Collection[str]) -> None:
    if not NAME.fullmatch(name):
        form = "Use lower-case letters, digits and single hyphens, and start with a letter, as in my-lora"
        raise BwlabError(f"a plugin named {name!r}", "this is not a valid package name", form)
    if name in taken:
        raise BwlabError(
            f"a plugin named {name!r}", "bwlab or an installed plugin has that name", "Choose another name"
        )
    if keyword.iskeyword(name):
        raise BwlabError(f"a plugin named {name!r}", "it is a word of Python's own", "Choose another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "the folder is not empty" if folder.is_dir() else "it is a file"
        raise BwlabError(f"a plugin project in {folder}", found, "Give a new folder with --out")


def _templates(kind: PluginKind) -> Iterator[tuple[str, str]]:
    """Yield the path in the project and the text of each template: those of all kinds, then those of this kind."""
    common = files("bwlab").joinpath(*PROJECTS)
    for path, template in COMMON.items():
        yield path, common.joinpath(template).read_text(encoding="utf-8")
    own = _own_folder(kind)
    if own is None:
        fix = f"Put templates into {kind.package}/{'/'.join(PROJECTS)}/{kind.name}"
        raise BwlabError(f"a plugin of the kind {kind.name}", "its plugin has no project to start from", fix)
    for entry in sorted(own.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(TEMPLATE):
            yield _place(entry.name.removesuffix(TEMPLATE)), entry.read_text(encoding="utf-8")


def _own_folder(kind: PluginKind) -> Traversable | None:
    """Return the folder with the templates of a kind; None if there is none."""
    try:
        folder = files(kind.package).joinpath(*PROJECTS, kind.name)
    except (ImportError, TypeError):  # there is no such package, or it is a single module
        return None
    return folder if folder.is_dir() else None


def _place(name: str) -> str:
    """Return where a file of a project lies: tests in `tests`, other Python files in the package.

    Tests have the package in their names, as pytest refuses two files of one name in folders without `__init__.py`.
    """
    if not name.endswith(".py"):
        return name
    kind, _, rest = name.partition("_")
    return f"tests/test_{{{{package}}}}_{rest}" if kind == "test" else f"{{{{package}}}}/{name}"


def _filled(text: str, words: dict[str, str]) -> str:
    for key, value in words.items():
        text = text.replace("{{" + key + "}}", value)
    return text
