"""Registers the block schemes of Stable Diffusion's UNets; light to import."""

from __future__ import annotations

from bwlab.blocks.unets import find_sd, find_sdxl
from bwlab.hookspecs import hookimpl
from bwlab.registry import SchemeFinder


@hookimpl
def bwlab_register_block_schemes() -> list[SchemeFinder]:
    """Return the schemes ``sd`` (1.x, 2.x, the embedded base) and ``sdxl``."""
    return [
        SchemeFinder("sd", "UNets of Stable Diffusion 1.x and 2.x: 4 levels down, mid, 4 up", find_sd),
        SchemeFinder("sdxl", "UNets of SDXL: 3 levels down, mid, 3 up", find_sdxl),
    ]
