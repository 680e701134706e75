"""The TOML of plans: those that ship with bwlab, files, and one laid over another."""

from __future__ import annotations

import importlib.resources
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bwlab.errors import BwlabError, first_line
from bwlab.nearest import did_you_mean

Table = Mapping[str, Any]


def shipped_plans() -> tuple[str, ...]:
    """Return the names of the plans that ship with bwlab."""
    folder = importlib.resources.files("bwlab_analysis.study") / "plans"
    return tuple(sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml")))


def read_table(name: str, beside: Path = Path(), above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a plan's TOML, laid over the plan that it ``extends``.

    Args:
        name: of a shipped plan, or a path.
        beside: what the path is relative to.
        above: the plans that extend this one.

    Raises:
        BwlabError: it cannot be read, or extends itself.
    """
    path = None if name in shipped_plans() else beside / name
    place = name if path is None else str(path.resolve())
    if place in above:
        raise BwlabError(f"--plan {name}", "it extends itself", "Name another plan in extends, or leave it out")
    table = _parsed(name, path)
    folder = Path() if path is None else path.parent
    for kind in ("identities", "styles") if isinstance(table.get("data"), Mapping) else ():
        entries = table["data"].get(kind)
        if isinstance(entries, list):
            table["data"][kind] = [_located(entry, folder) for entry in entries]
    below = table.get("extends")
    return overlaid({} if below is None else read_table(str(below), folder, (*above, place)), table)


def _parsed(name: str, path: Path | None) -> dict[str, Any]:
    shipped = importlib.resources.files("bwlab_analysis.study") / "plans" / f"{name}.toml"
    try:
        return tomllib.loads(shipped.read_text(encoding="utf-8") if path is None else path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        fix = f"{did_you_mean(name, shipped_plans())}Choose from {', '.join(shipped_plans())}, or a TOML file"
        raise BwlabError(f"--plan {name}", "no such plan or file", fix) from None
    except (OSError, ValueError) as error:
        raise BwlabError(f"--plan {name}", first_line(error), "Correct the TOML file") from error


def _located(entry: object, beside: Path) -> object:
    """An identity or style whose folder is found from wherever bwlab is started."""
    if isinstance(entry, Mapping) and "folder" in entry:
        return {**entry, "folder": str((beside / str(entry["folder"])).resolve())}
    return entry


def overlaid(below: Table, above: Table) -> dict[str, Any]:
    """Return nested tables in which ``above`` wins; a table whose only key is ``none = true`` takes one away.

    >>> overlaid({"a": {"x": 1, "y": 2}, "b": {"z": 3}}, {"a": {"y": 5}, "b": {"none": True}})
    {'a': {'x': 1, 'y': 5}}
    """
    result = dict(below)
    for key, value in above.items():
        if value == {"none": True}:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            known = result.get(key)
            result[key] = overlaid(known if isinstance(known, Mapping) else {}, value)
        else:
            result[key] = value
    return result
