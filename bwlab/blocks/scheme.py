"""Finding the block scheme of a model from its config."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bwlab.blocks.naming import BlockScheme, Module
from bwlab.blocks.unets import block_types, find_sd, find_sdxl
from bwlab.errors import BwlabError

__all__ = ["BlockScheme", "Finder", "Module", "scheme_for"]

Finder = Callable[[Mapping[str, object]], BlockScheme | None]


def scheme_for(config: Mapping[str, object], finders: Iterable[Finder] = ()) -> BlockScheme:
    """Return the block scheme of the UNet with this config.

    Args:
        config: as diffusers writes it to ``unet/config.json``.
        finders: those of plugins, ``manager.block_schemes()``; asked before the built-in ones.

    Raises:
        BwlabError: no finder knows such a UNet.
    """
    for find in (*finders, find_sd, find_sdxl):
        scheme = find(config)
        if scheme is not None:
            return scheme
    raise BwlabError(
        "the block scheme of this UNet",
        f"no known one fits {_described(config)}",
        "Use a UNet like that of Stable Diffusion 1.x, 2.x or SDXL, or install a plugin that knows this one",
    )


def _described(config: Mapping[str, object]) -> str:
    down, mid, up = block_types(config)
    layers = config.get("layers_per_block", 2)
    kinds = f"{'/'.join(map(str, down)) or 'none'}, {mid}, {'/'.join(map(str, up)) or 'none'}"
    return f"{config.get('_class_name', 'a config')} with the blocks {kinds} and {layers} layers per block"
