"""Settings from files, presets and command lines, merged into one model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from bwlab.config.model import SettingError, Settings, plain_type
from bwlab.errors import BwlabError, first_line, nearest
from bwlab.text import parse_toml

Model = TypeVar("Model", bound=Settings)


@dataclass(frozen=True)
class Typed:
    """A value as it was typed after `--set key=`."""

    text: str


@dataclass(frozen=True)
class Setting:
    """One setting and where it comes from.

    Attributes:
        key: dotted, such as `training.lr`.
        value: as TOML gives it, or `Typed`.
        origin: the file or option that gives it, for messages.

    """

    key: str
    value: object
    origin: str


def parse_set(text: str) -> Setting:
    """Return the setting of a `key=value` text; the value may itself hold `=`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BwlabError(f"--set {text}", "not of the form key=value", "Write, for example, --set training.lr=1e-4")
    return Setting(key.strip(), Typed(value.strip()), "--set")


def parse_value(text: str, kind: object) -> object:
    """Return the value of a typed text: TOML if it is TOML, else the text; for a text setting as typed, unquoted.

    Numbers that are not TOML (`.5`, `NaN`) are numbers for a number setting.

    >>> parse_value("[1, 2]", object), parse_value("fast", object), parse_value("4", str), parse_value(".5", float)
    ([1, 2], 'fast', '4', 0.5)
    """
    try:
        value: object = parse_toml(f"value = {text}")["value"]
    except ValueError:
        return _number_or_text(text) if kind is float else text
    return text if kind is str and not isinstance(value, str) else value


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read_file(path: Path) -> list[Setting]:
    """Return the settings of a TOML file; BwlabError if it is missing or not TOML."""
    tables = read_tables(path, f"config {path}", "TOML file")
    return [Setting(key, value, str(path)) for key, value in flattened(tables)]


def read_tables(path: Path, asked: str, wanted: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Args:
        path: the file; a byte order mark is allowed.
        asked: what the user asked for, for messages.
        wanted: name of the kind of file, for messages.

    Raises:
        BwlabError: the file is missing or not TOML.

    """
    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BwlabError(asked, "no such file", f"Give the path of a {wanted}") from None
    except (OSError, ValueError) as error:
        raise BwlabError(asked, first_line(error), _toml_fix(path)) from error


def _toml_fix(path: Path) -> str:
    """Return what to do about a file that is not TOML: those of other trainers are YAML or JSON."""
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return "Correct the TOML file"
    return "bwlab's own files are TOML: 'bwlab config init FILE.toml' writes one with every setting and its default"


def flattened(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) of nested tables."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def sections(model: type[Settings]) -> dict[str, type[Settings]]:
    """Return the fields of a model that are models themselves, which TOML writes as tables."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Settings)}


def setting_fields(model: type[Settings]) -> dict[str, FieldInfo]:
    """Return the field of every setting of a model and its sections, by dotted key."""
    inner = sections(model)
    fields = {name: field for name, field in model.model_fields.items() if name not in inner}
    for name, section in inner.items():
        fields |= {f"{name}.{key}": field for key, field in section.model_fields.items()}
    return fields


def setting_values(settings: Settings) -> dict[str, object]:
    """Return the value of every setting of a model and its sections, by dotted key."""
    values = dict(settings)
    inner = {name: dict(values.pop(name)) for name in sections(type(settings))}
    return {**values, **{f"{name}.{key}": value for name, section in inner.items() for key, value in section.items()}}


def is_table(field: FieldInfo) -> bool:
    """Return whether a setting is a table that takes any key, such as `adapter.options`."""
    return getattr(plain_type(field.annotation), "__origin__", None) is Mapping


def alternatives(model: type[Settings]) -> dict[str, str]:
    """Return the `alternatives` of a model and its sections, both ways, by dotted key."""
    pairs: dict[str, str] = {}
    for name, section in {"": model, **sections(model)}.items():
        prefix = f"{name}." if name else ""
        for key, other in section.alternatives.items():
            pairs |= {prefix + key: prefix + other, prefix + other: prefix + key}
    return pairs


def merged(model: type[Settings], levels: Iterable[Sequence[Setting]]) -> list[Setting]:
    """Return the settings of several levels, those that win last.

    A setting takes the place of its alternative on an earlier level.

    Raises:
        BwlabError: two alternatives on one level.

    """
    pairs, settings = alternatives(model), list[Setting]()
    for level in levels:
        keys = {setting.key: setting for setting in level}
        for key in keys.keys() & pairs.keys():
            if pairs[key] in keys:
                first, second = sorted((keys[key], keys[pairs[key]]), key=lambda setting: setting.key)
                asked = f"{first.origin}: {first.key}"
                raise BwlabError(asked, f"{second.key} is given too ({second.origin})", "Give one of them")
        superseded = {pairs[key] for key in keys.keys() & pairs.keys()}
        settings = [*(setting for setting in settings if setting.key not in superseded), *level]
    return settings


def build(model: type[Model], settings: Iterable[Setting]) -> Model:
    """Return the model that `settings` give, the later of two for one key; defaults fill the rest.

    Raises:
        BwlabError: an unknown key (with the nearest known one) or a value that its setting cannot have; the message
            names the key and where it comes from.

    """
    chosen = {setting.key: setting for setting in settings}
    fields = setting_fields(model)
    values: dict[str, Any] = {}
    for key, setting in chosen.items():
        table = next((name for name, field in fields.items() if is_table(field) and key.startswith(f"{name}.")), None)
        if table is not None:
            values.setdefault(table, {})[key.removeprefix(f"{table}.")] = plain_value(setting, object)
        elif key in fields and is_table(fields[key]):
            fix = f"Give each entry by its name: --set {key}.NAME=VALUE"
            raise BwlabError(f"{setting.origin}: {key}", "a table of entries", fix)
        elif key not in fields:
            raise unknown_key(setting, [name for name, field in fields.items() if not is_table(field)])
        else:
            values[key] = plain_value(setting, plain_type(fields[key].annotation))
    made = {name: _section(section, f"{name}.", values, chosen) for name, section in sections(model).items()}
    return _section(model, "", {**{key: value for key, value in values.items() if "." not in key}, **made}, chosen)


def plain_value(setting: Setting, kind: object) -> object:
    """Return the value of a setting of this kind as TOML gives it."""
    return parse_value(setting.value.text, kind) if isinstance(setting.value, Typed) else setting.value


def _section(model: type[Model], prefix: str, values: Mapping[str, Any], chosen: Mapping[str, Setting]) -> Model:
    own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    try:
        return model(**own)
    except SettingError as error:
        setting = chosen[prefix + error.key]
        shown = setting.value.text if isinstance(setting.value, Typed) else error.asked.removeprefix(f"{error.key} = ")
        raise BwlabError(f"{setting.origin}: {setting.key} = {shown}", error.found, error.fix) from error


def unknown_key(setting: Setting, keys: Collection[str]) -> BwlabError:
    """Return the error for a key that does not exist, with the nearest one that does."""
    from bwlab.config.foreign_names import hint_for  # tables of a thousand rows, which only errors need

    # In the order of the model: `lr` alone means the optimiser's.
    within = [key for key in keys if key.endswith(f".{setting.key.rpartition('.')[2]}")]
    ours = within or setting.key.partition(".")[0] in keys
    foreign = None if ours else hint_for(setting.key)
    if foreign is not None:
        return BwlabError(f"{setting.origin}: {setting.key}", "a name of another trainer", f"Here it is {foreign}")
    known = sorted(keys)
    near = nearest(setting.key, known, cutoff=0.4)
    meant = within[0] if within else near
    hint = f"Did you mean {meant}?" if meant else f"Known keys: {', '.join(known)}"
    return BwlabError(f"{setting.origin}: {setting.key}", "unknown key", hint)
