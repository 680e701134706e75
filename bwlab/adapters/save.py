"""Save adapters as kohya files, which A1111, Forge, ComfyUI, kohya's trainer and diffusers read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bwlab._version import __version__
from bwlab.adapters.adapter import Adapter
from bwlab.errors import BwlabError
from bwlab.formats.algorithms import UnfitLeaves, algorithm_of
from bwlab.formats.contents import SHAPES_KEY, TYPE_KEY
from bwlab.formats.keys import ALPHA, kohya_name_of
from bwlab.formats.safetensors import write_tensors
from bwlab.formats.torch_tensors import lazy_tensor

# Stable Diffusion's generations differ in the width of the text features that cross attention reads.
_GENERATIONS = {768: ("sd_v1", "False"), 1024: ("sd_v2", "True")}


def save_adapter(
    adapter: Adapter,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write an adapter to `path`, completely or not at all.

    The file has one alpha, the most common alpha of the layers; for other layers `alpha_i / alpha` is folded into up.
    If all layers share one alpha, every tensor is written bit for bit.

    Args:
        metadata: further entries, such as `bwlab.config`, which take precedence over the default entries.
        dtype: dtype of the stored floats; None keeps the adapter's dtype.

    Raises:
        BwlabError: a tensor contains NaN or infinity, the disk is full, or the folder is not writable.

    """
    alpha = Counter(layer.alpha for layer in adapter.layers.values()).most_common(1)[0][0]
    two_encoders = adapter.scheme.name == "sdxl"
    tensors: dict[str, Tensor] = {}
    for layer_path, layer in adapter.layers.items():
        name = kohya_name_of(layer_path, two_encoders)
        for leaf, tensor in layer.file_tensors(alpha).items():
            tensors[f"{name}.{leaf}"] = _stored(tensor, leaf, dtype)
    _require_finite(f"saving {path}", tensors)
    entries = {**adapter.metadata, **file_metadata(adapter, alpha), **_shapes(adapter, alpha), **(metadata or {})}
    write_tensors(path, {key: lazy_tensor(tensor, key) for key, tensor in tensors.items()}, entries)


def _stored(tensor: Tensor, leaf: str, dtype: torch.dtype | None) -> Tensor:
    # alpha stays float32: as bfloat16 an alpha of 257 would come back as 256.
    cast = tensor if dtype is None or leaf == "alpha" or not tensor.is_floating_point() else tensor.to(dtype)
    return cast.detach().to("cpu").contiguous()


def _require_finite(asked: str, tensors: Mapping[str, Tensor]) -> None:
    bad = [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        found = f"{len(bad)} of {len(tensors)} tensors hold NaN or infinity, first {bad[0]}"
        raise BwlabError(asked, found, "The training diverged: use an earlier checkpoint or a lower learning rate")


def file_metadata(adapter: Adapter, alpha: float) -> dict[str, str]:
    """Return the default entries; `ss_network_dim` is `"Dynamic"` if ranks differ, as in kohya's resizer."""
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


def _shapes(adapter: Adapter, alpha: float) -> dict[str, str]:
    """Return the entry with the shapes of the changed weights; empty if the leaves of every layer determine them."""
    shapes = {
        path: list(layer.weight_shape)
        for path, layer in adapter.layers.items()
        if not _determine_shape({leaf: tuple(value.shape) for leaf, value in layer.file_tensors(alpha).items()})
    }
    return {SHAPES_KEY: json.dumps(shapes, separators=(",", ":"))} if shapes else {}


def _determine_shape(leaves: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether an algorithm of bwlab knows all of these leaves and their shapes determine the weight's."""
    shapes = {leaf: shape for leaf, shape in leaves.items() if leaf != ALPHA}
    algorithm = algorithm_of(shapes)
    if algorithm is None or not algorithm.leaves >= shapes.keys():
        return False
    try:
        return algorithm.shape(shapes) is not None
    except (UnfitLeaves, KeyError):
        return False


def block_ranks(adapter: Adapter) -> dict[str, list[int]]:
    """Return the ascending ranks that occur in each block, in the order of the scheme, without empty blocks."""
    ranks: dict[str, set[int]] = {block: set() for block in adapter.blocks()}
    for path, layer in adapter.layers.items():
        ranks[adapter.scheme.block_of(path) or "rest"].add(layer.rank)
    return {block: sorted(members) for block, members in ranks.items()}


def _base_model(adapter: Adapter) -> dict[str, str]:
    """Return `ss_base_model_version` and `ss_v2` if the shapes determine them; other tools filter by these."""
    if adapter.scheme.name == "sdxl":
        return {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"}
    widths = {layer.weight_shape[1] for path, layer in adapter.layers.items() if path.endswith("attn2.to_k")}
    for width, (version, is_v2) in _GENERATIONS.items():
        if widths == {width}:
            return {"ss_base_model_version": version, "ss_v2": is_v2}
    return {}
