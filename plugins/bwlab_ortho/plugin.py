"""Registers the ortho adapter type; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bwlab.adapters.types import AdapterType
from bwlab.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from bwlab.adapters.layer import AdapterLayer, BaseLayer


def load() -> type[AdapterLayer]:
    """Return the layer class (imports torch)."""
    from bwlab_ortho.layer import OrthoLayer

    return OrthoLayer


def prepare(options: Mapping[str, object], layers: Mapping[str, BaseLayer]) -> Mapping[str, Mapping[str, object]]:
    """Return for each layer the spaces to avoid, from the file that `orthogonal_to` names."""
    from bwlab_ortho.spaces import OPTION, spaces_of

    if options.get(OPTION) is None:
        return {}
    return {path: {"avoid": spaces} for path, spaces in spaces_of(options[OPTION], layers).items()}


@hookimpl
def bwlab_register_adapters() -> list[AdapterType]:
    """Return the type `ortho`."""
    from bwlab.blocks.targets import is_conv_target
    from bwlab.formats.keys import ALPHA, DOWN, UP

    return [
        AdapterType(
            name="ortho",
            summary="low-rank deltas with orthonormal factors on what locon adapts; can keep clear of another file",
            leaves=(DOWN, UP, ALPHA),
            needs_base_weight=False,
            load=load,
            targets=is_conv_target,
            options=("orthogonal_to",),
            prepare=prepare,
        )
    ]
