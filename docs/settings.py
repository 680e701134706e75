"""The page docs/settings.md: every setting of `bwlab train`, read from the models that check them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping

from pydantic.fields import FieldInfo

from bwlab.cli.train import UNREACHED
from bwlab.config.model import BOUNDS, KIND_NAMES, Settings, bound, choices, plain_type
from bwlab.config.sources import sections
from bwlab.training.config import TrainConfig

INTRODUCTION = """# Settings

Every setting of `bwlab train`, written by `make docs` from the models that check them. `bwlab config init run.toml`
writes the same as a file to start from. A setting is given in that file, by its flag ([command line](cli.md)), or with
`--set training.lr=1e-4`; [training](training.md#settings) says which source wins. An unknown key and a value out of
range are errors, which name the nearest key or what to give.
"""
HEAD = "| setting | kind | default | range | meaning |\n|---|---|---|---|---|"


def settings_page() -> str:
    """Return the whole page."""
    top = TrainConfig()
    inner = sections(TrainConfig)
    own = {name: field for name, field in TrainConfig.model_fields.items() if name not in inner}
    parts = [INTRODUCTION, _section("Outside of all tables", "", "", own, top)]
    for name in inner:
        model = getattr(top, name)
        summary = inspect.cleandoc(type(model).__doc__ or "").split("\n")[0]
        parts.append(_section(f"`[{name}]`", f"{summary}\n\n", f"{name}.", type(model).model_fields, model))
    return "\n".join(parts)


def keys() -> Iterator[str]:
    """Yield the whole key of each setting: `base`, `training.lr`."""
    inner = sections(TrainConfig)
    for name, field in TrainConfig.model_fields.items():
        within = getattr(field.annotation, "model_fields", {}) if name in inner else {}
        yield from (f"{name}.{key}" for key in within) if within else (name,)


def _section(head: str, says: str, within: str, fields: Mapping[str, FieldInfo], values: Settings) -> str:
    rows = (_row(f"{within}{key}", field, getattr(values, key)) for key, field in fields.items())
    return f"## {head}\n\n{says}" + "\n".join([HEAD, *rows]) + "\n"


def _row(key: str, field: FieldInfo, default: object) -> str:
    says = " ".join((field.description or "").split())
    cells = (f"`{key}`", _kind(field), _shown(default), _limits(field), says)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(field: FieldInfo) -> str:
    """Return what a setting may be, in words."""
    if choices(field):
        return "one of these values"
    kind = plain_type(field.annotation)
    return "a table" if typing.get_origin(kind) is Mapping else KIND_NAMES[kind]


def _limits(field: FieldInfo) -> str:
    """Return the values that a setting may have, or its bounds in words, unrounded."""
    limits = ((word, bound(field, name)) for name, word in BOUNDS.items())
    return ", ".join(f"`{word}`" for word in choices(field)) or ", ".join(
        f"{word} {limit}" for word, limit in limits if limit is not None and limit < UNREACHED
    )


def _shown(default: object) -> str:
    """Return a default as TOML has it; "not set" for none, for which TOML has no word."""
    if default is None:
        return "not set"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return "`[]`" if not default else f"`{list(default)}`"
    if isinstance(default, Mapping):
        return "`{}`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default}`"
