"""Registers the built-in formats; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bwlab.formats.dialects.table import BUILT_IN
from bwlab.hookspecs import hookimpl
from bwlab.registry import FormatType, FormatWriter

if TYPE_CHECKING:
    from pathlib import Path

    from bwlab.adapters.adapter import Adapter

SUMMARY = "safetensors with kohya keys, as A1111, Forge, ComfyUI, kohya's trainer and diffusers read them"


def write(adapter: Adapter, path: Path, metadata: Mapping[str, str]) -> None:
    """Saves an adapter as a kohya file (imports torch)."""
    from bwlab.formats.kohya import save_adapter

    save_adapter(adapter, path, metadata)


@hookimpl
def bwlab_register_formats() -> list[FormatType]:
    """The built-in readers and writers."""
    return [*BUILT_IN, FormatWriter(name="kohya", summary=SUMMARY, write=write)]
