"""What a saved adapter says about itself: `ss_*` entries that other tools read, `bwlab.*` entries for bwlab."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bwlab import __version__

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter

TYPE_KEY = "bwlab.adapter_type"

# The width of the text features that cross attention reads tells Stable Diffusion's generations apart.
_GENERATIONS = {768: ("sd_v1", "False"), 1024: ("sd_v2", "True")}


def file_metadata(adapter: Adapter, alpha: float) -> dict[str, str]:
    """The entries written by default. `ss_network_dim` is `"Dynamic"` where ranks differ, as kohya's resizer has it."""
    ranks = sorted({layer.rank for layer in adapter.layers.values()})
    entries = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks[0]) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alpha:g}",
        "bwlab.version": __version__,
        TYPE_KEY: adapter.type_name,
        "bwlab.scheme": adapter.scheme.name,
        "bwlab.alpha": f"{alpha:g}",
        "bwlab.ranks": json.dumps(block_ranks(adapter)),
    }
    conv_ranks = sorted({layer.rank for layer in adapter.layers.values() if layer.weight_shape[2:] not in ((), (1, 1))})
    if conv_ranks:
        arguments = {"conv_dim": str(conv_ranks[-1]), "conv_alpha": f"{alpha:g}"}
        entries["ss_network_args"] = json.dumps(arguments)
    return entries | _base_model(adapter)


def block_ranks(adapter: Adapter) -> dict[str, list[int]]:
    """Block name -> the ranks that occur in it, ascending, in the scheme's order; empty blocks are left out."""
    ranks: dict[str, set[int]] = {block: set() for block in adapter.blocks()}
    for path, layer in adapter.layers.items():
        ranks[adapter.scheme.block_of(path) or "rest"].add(layer.rank)
    return {block: sorted(found) for block, found in ranks.items()}


def _base_model(adapter: Adapter) -> dict[str, str]:
    """`ss_base_model_version` and `ss_v2`, where the adapter's shapes tell; other tools filter their lists by them."""
    if adapter.scheme.name == "sdxl":
        return {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"}
    widths = {layer.weight_shape[1] for path, layer in adapter.layers.items() if path.endswith("attn2.to_k")}
    for width, (version, is_v2) in _GENERATIONS.items():
        if widths == {width}:
            return {"ss_base_model_version": version, "ss_v2": is_v2}
    return {}
