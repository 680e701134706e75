"""Registers the kohya format; light to import."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from bwlab.formats.keys import dialect_of
from bwlab.hookspecs import hookimpl
from bwlab.registry import FormatReader, FormatType, FormatWriter

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from bwlab.adapters.adapter import Adapter
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.plugins import PluginManager

SUMMARY = "safetensors with kohya keys, as A1111, Forge, ComfyUI, kohya's trainer and diffusers read them"


def recognises(keys: Collection[str]) -> bool:
    """Whether every key is a kohya key."""
    return dialect_of(keys) == "kohya"


def read(path: Path, unet: nn.Module, manager: PluginManager, scheme: BlockScheme) -> Adapter:
    """The adapter in a kohya file (imports torch)."""
    from bwlab.formats.kohya import load_adapter

    return load_adapter(path, unet, manager, scheme)


def write(adapter: Adapter, path: Path, metadata: Mapping[str, str]) -> None:
    """Saves an adapter as a kohya file (imports torch)."""
    from bwlab.formats.kohya import save_adapter

    save_adapter(adapter, path, metadata)


@hookimpl
def bwlab_register_formats() -> list[FormatType]:
    """The kohya reader and writer."""
    return [
        FormatReader(name="kohya", summary=SUMMARY, recognises=recognises, read=read),
        FormatWriter(name="kohya", summary=SUMMARY, write=write),
    ]
