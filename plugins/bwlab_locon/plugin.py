"""Registers the LoCon adapter type; light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.adapters.types import AdapterType
from bwlab.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from bwlab.adapters.layer import AdapterLayer


def load() -> type[AdapterLayer]:
    """Return the layer class (imports torch)."""
    from bwlab_locon.layer import LoconLayer

    return LoconLayer


@hookimpl
def bwlab_register_adapters() -> list[AdapterType]:
    """Return the type `locon`."""
    from bwlab.blocks.targets import is_conv_target
    from bwlab.formats.keys import ALPHA, DOWN, UP

    return [
        AdapterType(
            name="locon",
            summary="low-rank deltas on what lora adapts and on the convolutions and time projections of the resnets",
            leaves=(DOWN, UP, ALPHA),
            needs_base_weight=False,
            load=load,
            targets=is_conv_target,
        )
    ]
