"""Registers LyCORIS' adapter types; light to import."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bwlab.adapters.types import AdapterType
from bwlab.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from bwlab.adapters.layer import AdapterLayer


def load(name: str) -> type[AdapterLayer]:
    """Return the layer class of a type (imports torch)."""
    from bwlab_lycoris.layers import LAYERS

    return LAYERS[name]


@hookimpl
def bwlab_register_adapters() -> list[AdapterType]:
    """Return `loha`, `lokr`, `dora`, `doha`, `dokr`, `oft`, `boft`, `glora` and `ia3`."""
    from bwlab.blocks.targets import is_conv_target
    from bwlab_lycoris.kinds import LYCORIS_KINDS

    return [
        AdapterType(
            name=kind.name,
            summary=kind.summary,
            leaves=kind.leaves,
            needs_base_weight=kind.needs_base_weight,
            load=partial(load, kind.name),
            targets=is_conv_target,
            options=tuple(kind.options),
            splits_outputs=kind.splits_outputs,
        )
        for kind in LYCORIS_KINDS.values()
    ]
