"""A training configuration put together from a preset, a TOML file, flags and `--set`."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bwlab.config.fields import Section, SettingError, Typed, converted
from bwlab.config.toml import table_text
from bwlab.errors import BwlabError, first_line, nearest
from bwlab.training.config import TrainConfig

PRESETS: Mapping[str, Mapping[str, object]] = {
    # Block-wise LoRA (arXiv 2403.07500), section 4: 20 images x 25 repeats, about 500 regularisation pictures made by
    # the base, 11,000 steps of 2, sampling at CFG 7. Where to and of what the base draws, only the user can say.
    "paper": {
        "adapter.type": "locon",
        "data.repeats": 25,
        "regularisation.generate": 500,
        "training.steps": 11_000,
        "training.batch_size": 2,
        "preview.every": 1000,
        "preview.steps": 25,
        "preview.cfg": 7.0,
        "checkpoint.every": 1000,
    },
}

# What changes neither weights nor the order of things. The base and the data are told by their contents instead.
FREE = frozenset(
    {
        "base",
        "out",
        "adapter.initial",  # only where it started
        "training.device",
        "training.gradient_checkpointing",
        "training.precision",  # what it comes to on this machine counts
    }
)
FREE_SECTIONS = ("data.", "regularisation.", "preview.", "checkpoint.", "tracking.")


@dataclass(frozen=True)
class Setting:
    """One setting and where it came from.

    Attributes:
        key: dotted, such as `training.lr`.
        value: as TOML gives it, or `Typed`.
        origin: for messages: a file, or a flag.

    """

    key: str
    value: object
    origin: str


def read_config(
    path: Path | None = None,
    preset_name: str | None = None,
    flags: Mapping[str, tuple[str, str]] | None = None,
    sets: Sequence[str] = (),
) -> TrainConfig:
    """Return the configuration; later sources win: defaults, preset, file, flags, `--set`.

    Args:
        path: a TOML file.
        preset_name: one of `bwlab.training.settings.PRESETS`.
        flags: dotted key to (flag, text as typed).
        sets: `key=value` texts.

    Raises:
        BwlabError: an unreadable file, an unknown key (with the nearest known one) or a value it cannot have.

    """
    return build(collect(path, preset_name, flags or {}, sets))


def collect(
    path: Path | None, preset_name: str | None, flags: Mapping[str, tuple[str, str]], sets: Sequence[str]
) -> list[Setting]:
    """Return all that is set, the later of two for one key winning; see `read_config`."""
    settings: list[Setting] = []
    if preset_name is not None:
        settings += [Setting(key, value, f"--preset {preset_name}") for key, value in preset(preset_name).items()]
    if path is not None:
        settings += read_file(path)
    settings += [Setting(key, Typed(text), flag) for key, (flag, text) in flags.items()]
    return settings + [parse_set(text) for text in sets]


def read_file(path: Path) -> list[Setting]:
    """Return the settings of a TOML file; BwlabError if it is missing or not TOML."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BwlabError(f"config {path}", "no such file", "Give the path of a TOML file") from None
    except (OSError, ValueError) as error:
        raise BwlabError(f"config {path}", first_line(error), "Correct the TOML file") from error
    return [Setting(key, value, str(path)) for key, value in flattened(tables)]


def flattened(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) of nested tables."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def parse_set(text: str) -> Setting:
    """Return the setting of a `key=value` text; the value may itself hold `=`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BwlabError(f"--set {text}", "not of the form key=value", "Write, for example, --set training.lr=1e-4")
    return Setting(key.strip(), Typed(value.strip()), "--set")


def sections() -> dict[str, type[Section]]:
    """Return the sections of a configuration by name."""
    hints = typing.get_type_hints(TrainConfig)
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, Section)}


def known_keys() -> dict[str, object]:
    """Return every dotted key with its type; one of a free table, whose own keys are not known, has a mapping's."""
    keys = {name: kind for name, kind in typing.get_type_hints(TrainConfig).items() if name not in sections()}
    for name, section in sections().items():
        keys |= {f"{name}.{entry}": hint for entry, hint in typing.get_type_hints(section).items()}
    return keys


def flat_settings(config: TrainConfig) -> dict[str, object]:
    """Return the value of every setting by its dotted key."""
    values: dict[str, object] = {}
    for key in known_keys():
        value: object = config
        for name in key.split("."):
            value = getattr(value, name)
        values[key] = value
    return values


def free_tables() -> tuple[str, ...]:
    """Return the dotted keys of the tables that take any key, such as `adapter.options`."""
    return tuple(key for key, kind in known_keys().items() if typing.get_origin(kind) is Mapping)


def unknown_key(setting: Setting, keys: Collection[str]) -> BwlabError:
    """Return the error for a key that does not exist, with the nearest one that does."""
    known = sorted(keys)
    near = nearest(setting.key, known, cutoff=0.4)
    # In the order of the configuration: `lr` alone means the optimiser's.
    within = [key for key in keys if key.endswith(f".{setting.key.rpartition('.')[2]}")]
    meant = within[0] if within else near
    hint = f"Did you mean {meant}?" if meant else f"Known keys: {', '.join(known)}"
    return BwlabError(f"{setting.origin}: {setting.key}", "unknown key", hint)


def build(settings: Iterable[Setting]) -> TrainConfig:
    """Return the configuration that `settings` make, the later of two for one key."""
    free = free_tables()
    keys = {key: kind for key, kind in known_keys().items() if key not in free}
    chosen = {setting.key: setting for setting in settings}
    values: dict[str, Any] = {}
    for key, setting in chosen.items():
        table = next((table for table in free if key.startswith(f"{table}.")), None)
        if table is not None:
            option = key.removeprefix(f"{table}.")
            values.setdefault(table, {})[option] = converted(key, setting.value, object, setting.origin)
        elif key not in keys:
            raise unknown_key(setting, keys)
        else:
            values[key] = converted(key, setting.value, keys[key], setting.origin)
    made = {name: build_section(name, section, values, chosen) for name, section in sections().items()}
    plain = {key: value for key, value in values.items() if "." not in key}
    return TrainConfig(**plain, **made)


def build_section(
    name: str, section: type[Section], values: Mapping[str, Any], chosen: Mapping[str, Setting]
) -> Any:  # a dataclass of `section`; its fields are not known here
    """Return one section; a value out of range is told with its full key and origin."""
    own = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
    try:
        return section(**own)
    except SettingError as error:
        origin = chosen[f"{name}.{error.key}"].origin
        raise BwlabError(f"{origin}: {name}.{error.asked}", error.found, error.fix) from error


def preset(name: str) -> Mapping[str, object]:
    """Return the settings of a preset by dotted key; BwlabError naming the presets if there is none of that name."""
    if name not in PRESETS:
        raise BwlabError(f"--preset {name}", "no such preset", f"Choose from: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def is_free(key: str, config: TrainConfig) -> bool:
    """Return whether a setting may change when a run is resumed; the number of steps unless a schedule needs it."""
    if key == "training.steps":
        return config.training.schedule == "constant"
    return key in FREE or key.startswith(FREE_SECTIONS)


def resume_invariants(config: TrainConfig) -> dict[str, str]:
    """Return the settings that must stay the same for a run to be resumed, by key."""
    values = {**flat_settings(config), "training.lr": config.training.rate()}
    return {key: setting_text(value) for key, value in values.items() if not is_free(key, config)}


def setting_text(value: object) -> str:
    """Return a setting's value as text, the same for the same value."""
    return str(sorted(value.items())) if isinstance(value, dict) else str(value)


def toml_text(config: TrainConfig) -> str:
    """Return the configuration as TOML; settings that are none are left out."""
    tables: dict[str, dict[str, object]] = {"": {}}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            tables[name] = {key: entry for key, entry in value.items() if not isinstance(entry, dict)}
            tables |= {f"{name}.{key}": entry for key, entry in value.items() if isinstance(entry, dict) and entry}
        else:
            tables[""][name] = value
    return "\n".join(table_text(name, table) for name, table in tables.items())
