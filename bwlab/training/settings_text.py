"""A configuration as TOML for people: with what each setting is for, or with where it comes from."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from bwlab.config.toml import toml_key, toml_value
from bwlab.training.config import TrainConfig
from bwlab.training.settings import Setting, sections

WIDTH = 100
BOUNDS = {"least": "at least", "above": "above", "most": "at most"}
ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def attribute_docs(kind: type) -> dict[str, str]:
    """Return what the `Attributes` of a class's docstring say of each, as one line."""
    _, _, listed = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    return {name: " ".join(says.split()) for name, says in ATTRIBUTE.findall(listed)}


def summary(kind: type) -> str:
    """Return the first sentence of a class's docstring."""
    return inspect.cleandoc(kind.__doc__ or "").split("\n")[0]


def commented(text: str) -> Iterator[str]:
    """Yield lines of comment."""
    yield from (f"# {line}" for line in textwrap.wrap(text, WIDTH))


def commented_toml(config: TrainConfig) -> str:
    """Return all settings of a configuration, each with a comment that says what it is for.

    Settings that are none, for which TOML has no word, and empty tables are commented out.
    """
    lines = [*commented(f"{summary(TrainConfig)} What is commented out is not set."), ""]
    lines += fields_of(config, "")
    for name in sections():
        section = getattr(config, name)
        lines += ["", "", f"[{name}]", *commented(summary(type(section))), "", *fields_of(section, name)]
    return "\n".join(lines).rstrip() + "\n"


def fields_of(section: object, name: str) -> list[str]:
    """Return the lines of one section's own settings; those that are tables come last, as TOML wants."""
    docs = attribute_docs(type(section))
    lines: list[str] = []
    plain = {key: value for key, value in values_of(section).items() if not dataclasses.is_dataclass(value)}
    limits = {entry.name: limits_of(entry.metadata) for entry in dataclasses.fields(section)}  # type: ignore[arg-type]
    for key, value in sorted(plain.items(), key=lambda item: isinstance(item[1], Mapping)):
        lines += commented(docs[key] + limits[key])
        if isinstance(value, Mapping):
            lines += [*table_of(f"{name}.{key}", value), ""]
        elif value is None:
            lines += [f"# {key} =", ""]
        else:
            lines += [f"{key} = {toml_value(value)}", ""]
    return lines[:-1]


def limits_of(metadata: Mapping[str, object]) -> str:
    """Return the bounds of a number as its field has them, in words; nothing where it has none."""
    bounds = [f"{word} {metadata[name]:g}" for name, word in BOUNDS.items() if metadata.get(name) is not None]
    return f" ({', '.join(bounds)})" if bounds else ""


def table_of(name: str, table: Mapping[str, object]) -> list[str]:
    """Return the lines of a table of options."""
    if not table:
        return [f"# [{name}]"]
    return [f"[{name}]", *(f"{toml_key(key)} = {toml_value(value)}" for key, value in table.items())]


def values_of(section: object) -> dict[str, object]:
    """Return the values of a dataclass by name, in its order."""
    return {entry.name: getattr(section, entry.name) for entry in dataclasses.fields(section)}  # type: ignore[arg-type]


def toml_with_origins(config: TrainConfig, settings: Sequence[Setting]) -> str:
    """Return all settings of a configuration, each with a comment that says where it comes from."""
    origins = {setting.key: setting.origin for setting in settings}
    lines = list(with_origins("", config, origins))
    for name in sections():
        lines += ["", f"[{name}]", *with_origins(f"{name}.", getattr(config, name), origins)]
    return "\n".join(lines) + "\n"


def with_origins(prefix: str, section: object, origins: Mapping[str, str]) -> Iterator[str]:
    """Yield one line for each setting of a section; options of an inner table as dotted keys."""
    for key, value in values_of(section).items():
        if dataclasses.is_dataclass(value):
            continue
        if isinstance(value, Mapping):
            for option, own in value.items():
                full = f"{prefix}{key}.{option}"
                yield f"{key}.{toml_key(option)} = {toml_value(own)}  # {origins.get(full, 'default')}"
        elif value is None:
            yield f"# {key} is not set  # {origins.get(prefix + key, 'default')}"
        else:
            yield f"{key} = {toml_value(value)}  # {origins.get(prefix + key, 'default')}"
