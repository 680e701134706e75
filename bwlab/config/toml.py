"""Settings as TOML text: plain, with what each setting is for, or with where each value comes from."""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tomlkit

from bwlab.config.model import Settings, bounds
from bwlab.config.sources import Setting, sections
from bwlab.text import CONTROLS, single_line

WIDTH = 100


def toml_text(settings: Settings) -> str:
    """Return settings as TOML that reads back the same; those that are none are left out."""
    values = dict(settings)
    tables: dict[str, Mapping[str, object]] = {"": {}}
    for name in sections(type(settings)):
        section = dict(values.pop(name))
        tables[name] = {key: value for key, value in section.items() if not isinstance(value, Mapping)}
        tables |= {f"{name}.{key}": value for key, value in section.items() if isinstance(value, Mapping) and value}
    tables[""] = values
    return "\n".join(
        (f"[{name}]\n" if name else "") + "".join(f"{line}\n" for line in _lines(table))
        for name, table in tables.items()
    )


def with_names_only(settings: Settings) -> Settings:
    """Return settings in which files and folders that exist are named alone, without the folders that they are in.

    They can be shown to others, who have no such folders and need not know what they are called.
    """
    changes = {key: _name_only(value) for key, value in settings}
    return settings.model_copy(update=changes)


def _name_only(value: object) -> object:
    if isinstance(value, Settings):
        return with_names_only(value)
    if isinstance(value, Mapping):
        return {key: _name_only(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_name_only(inner) for inner in value)
    # os.path.exists is False for what no path can be, where Path.exists raises.
    if isinstance(value, str) and set(value) & {"/", "\\"} and os.path.exists(value):  # noqa: PTH110
        return Path(value).resolve().name
    return value


def commented_toml(settings: Settings, sources: Sequence[Setting] = ()) -> str:
    """Return all settings as TOML, each below a comment that says what it is for.

    Settings that are none, for which TOML has no word, and empty tables are commented out.

    Args:
        settings: the settings.
        sources: settings whose source is to be named beside their value.

    """
    origins = {setting.key: setting.origin for setting in sources}
    lines = [*_comment(f"{_summary(type(settings))} Settings that are commented out are not set."), ""]
    lines += _commented(settings, "", origins)
    for name in sections(type(settings)):
        section = getattr(settings, name)
        lines += ["", "", f"[{name}]", *_comment(_summary(type(section))), "", *_commented(section, name, origins)]
    return "\n".join(lines).rstrip() + "\n"


def toml_with_origins(settings: Settings, sources: Sequence[Setting]) -> str:
    """Return all settings as TOML, each with a comment that says where its value comes from."""
    origins = {setting.key: setting.origin for setting in sources}
    lines = list(_with_origins(settings, "", origins))
    for name in sections(type(settings)):
        lines += ["", f"[{name}]", *_with_origins(getattr(settings, name), f"{name}.", origins)]
    return "\n".join(lines) + "\n"


def lines_with_origins(sources: Sequence[Setting]) -> list[str]:
    """Return a line for each setting, with its whole key and a comment that says where its value comes from."""
    return [f"{setting.key} = {_value(setting.value)}  # {single_line(setting.origin)}" for setting in sources]


def _lines(table: Mapping[str, object]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items() if value is not None]


def _beside(origins: Mapping[str, str], key: str) -> str:
    """Return the comment that names the source of a setting, empty without one."""
    return f"  # {single_line(origins[key])}" if key in origins else ""


def _key(key: str) -> str:
    return _escaped(tomlkit.key(key).as_string())


def _value(value: object) -> str:
    return _escaped(tomlkit.item(value).as_string())


def _escaped(text: str) -> str:
    """Return TOML with escapes, which read back the same, in place of characters that would act on a terminal."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _summary(model: type[Settings]) -> str:
    return inspect.cleandoc(model.__doc__ or "").split("\n")[0]


def _comment(text: str) -> Iterator[str]:
    yield from (f"# {line}" for line in textwrap.wrap(text, WIDTH))


def _own(settings: Settings) -> dict[str, object]:
    """Return the values of a model that are no sections."""
    inner = sections(type(settings))
    return {name: value for name, value in settings if name not in inner}


def _commented(settings: Settings, section: str, origins: Mapping[str, str]) -> list[str]:
    """Return the lines of one section; settings that are tables come last, as TOML wants them."""
    fields = type(settings).model_fields
    lines: list[str] = []
    for key, value in sorted(_own(settings).items(), key=lambda item: isinstance(item[1], Mapping)):
        limits = ", ".join(bounds(fields[key]))
        lines += _comment((fields[key].description or "") + (f" ({limits})" if limits else ""))
        if isinstance(value, Mapping):
            lines += [f"[{section}.{key}]", *_lines(value), ""] if value else [f"# [{section}.{key}]", ""]
        else:
            origin = _beside(origins, f"{section}.{key}".lstrip("."))
            lines += [f"# {key} =" if value is None else f"{key} = {_value(value)}{origin}", ""]
    return lines[:-1]


def _with_origins(settings: Settings, prefix: str, origins: Mapping[str, str]) -> Iterator[str]:
    """Yield one line for each setting of a section; entries of a table as dotted keys."""
    for key, value in _own(settings).items():
        if isinstance(value, Mapping):
            for option, entry in value.items():
                origin = origins.get(f"{prefix}{key}.{option}", "default")
                yield f"{key}.{_key(option)} = {_value(entry)}  # {single_line(origin)}"
        else:
            line = f"# {key} is not set" if value is None else f"{key} = {_value(value)}"
            yield f"{line}  # {single_line(origins.get(prefix + key, 'default'))}"
