"""Kinds of plugins: the hook that each implements, how what it registers is checked, and the project to start from.

The core's kinds are in `bwlab.plugins.core_kinds`, those of the analysis in `bwlab_analysis.kinds`. A plugin that
declares hooks of its own can register kinds for them in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bwlab.testing.contract import Outcome


@dataclass(frozen=True)
class CheckOptions:
    """What a user gives for a check beside a name.

    Attributes:
        base: folder of a small base, for kinds that need one; None for their own.
        settings: options of what is checked, by name, as they were typed.

    """

    base: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def by_name(register: Callable[[], Iterable[Iterable[Any]]], module: str) -> list[tuple[str, Any]]:
    """Return (name, entry) of what a hook of one plugin returns: lists of entries that have a `name`."""
    return [(str(entry.name), entry) for entries in register() for entry in entries]


@dataclass(frozen=True)
class PluginKind:
    """A kind of plugin.

    Attributes:
        name: the value of `bwlab plugins new --kind`, e.g. `"metric"`; unique among all installed plugins.
        called: what people call an entry, e.g. `"block metric"`.
        hook: the hook that registers entries.
        check: takes all entries of one name and the user's options, and returns the outcome of each clause of the
            contract; `BwlabError` if the options do not suffice.
        package: the package whose folder `data/plugin_project/<name>` holds the files of a project to start from.
        entries: takes the hook of one plugin and the name of its module, and returns what it registers by name.

    """

    name: str
    called: str
    hook: str
    check: Callable[[Sequence[Any], CheckOptions], list[Outcome]]
    package: str = "bwlab"
    entries: Callable[[Callable[..., Any], str], list[tuple[str, Any]]] = by_name
