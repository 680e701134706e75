"""Registers the LoRA adapter type; light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.adapters.types import AdapterType
from bwlab.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from bwlab.adapters.layer import AdapterLayer


def load() -> type[AdapterLayer]:
    """Return the layer class (imports torch)."""
    from bwlab_lora.layer import LoraLayer

    return LoraLayer


@hookimpl
def bwlab_register_adapters() -> list[AdapterType]:
    """Return the type `lora`."""
    from bwlab.blocks.targets import is_attention_target
    from bwlab.formats.keys import ALPHA, DOWN, UP

    return [
        AdapterType(
            name="lora",
            summary="low-rank deltas on the linear layers and 1x1 projections of the transformer blocks",
            leaves=(DOWN, UP, ALPHA),
            needs_base_weight=False,
            load=load,
            targets=is_attention_target,
        )
    ]
