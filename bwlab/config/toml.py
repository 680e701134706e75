"""A configuration as TOML text that reads back the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping


def table_text(name: str, table: Mapping[str, object]) -> str:
    """Return one TOML table with its header."""
    header = f"[{name}]\n" if name else ""
    return header + "".join(f"{toml_key(k)} = {toml_value(v)}\n" for k, v in table.items() if v is not None)


def toml_key(key: str) -> str:
    """Return a key, quoted where TOML needs it."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_string(key)


def toml_string(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are TOML's, but for DEL, which JSON leaves raw."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_value(value: object) -> str:
    """Return a text, number, truth value or list of these as TOML."""
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_value(entry) for entry in value)}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)
