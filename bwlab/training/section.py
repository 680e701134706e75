"""Groups of settings whose values are checked when they are made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bwlab.errors import BwlabError
from bwlab.nearest import did_you_mean

Number = TypeVar("Number", int, float)


class SettingError(BwlabError):
    """A setting with a value it cannot have.

    Args:
        key: the setting's name within its section.
        value: what it was set to.
        found: what is wrong with that.
        fix: what to give instead.
    """

    def __init__(self, key: str, value: object, found: str, fix: str) -> None:
        super().__init__(f"{key} = {value}", found, fix)
        self.key = key


def bounded(
    default: Number, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> Number:
    """Return a dataclass field for a number with bounds, which `Section` checks."""
    return field(default=default, metadata={"least": least, "above": above, "most": most})


def maybe(*, least: float | None = None, above: float | None = None, most: float | None = None) -> Any:
    """Return a dataclass field, None by default, for a number with bounds, which `Section` checks."""
    return field(default=None, metadata={"least": least, "above": above, "most": most})


def choice(default: str, *choices: str) -> str:
    """Return a dataclass field for one of several words, which `Section` checks."""
    return field(default=default, metadata={"choices": choices})


def check_number(key: str, value: float, bounds: Mapping[str, float | None]) -> None:
    """Raise SettingError unless ``value`` is finite and within ``bounds`` (``least``, ``above``, ``most``)."""
    least, above, most = (bounds.get(name) for name in ("least", "above", "most"))
    wanted = [f"at least {least:g}"] if least is not None else []
    wanted += [f"above {above:g}"] if above is not None else []
    wanted += [f"at most {most:g}"] if most is not None else []
    inside = (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
    )
    if not inside:
        rule = " and ".join(["a finite number", *wanted])
        raise SettingError(key, value, "out of range", f"Give {rule}")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raise SettingError, with the nearest choice, unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise SettingError(key, value, "unknown", f"{did_you_mean(value, choices)}Choose from {', '.join(choices)}")


@dataclass(frozen=True)
class Section:
    """A group of settings whose numbers and words are checked."""

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = self.__dict__[entry.name]
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                check_number(entry.name, value, entry.metadata)
            if "choices" in entry.metadata:
                check_choice(entry.name, value, entry.metadata["choices"])
