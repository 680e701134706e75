"""Save adapters as other tools read them.

Adapters of UNets get kohya's keys, which A1111, Forge, ComfyUI, kohya's trainer and diffusers read; those of
transformers get diffusers' keys, which ComfyUI reads too. Those of a plugin's family, which no other tool reads, get
keys that begin with the family's name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bwlab._version import __version__
from bwlab.adapters.adapter import Adapter
from bwlab.adapters.layer import LORA_NETWORK, AdapterLayer
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.blocks.paths import TRANSFORMER
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.transformers import TRANSFORMERS
from bwlab.errors import BrokenFileError, BwlabError
from bwlab.formats.algorithms import ALGORITHMS, UnfitLeaves, algorithm_of
from bwlab.formats.contents import SHAPES_KEY, TYPE_KEY
from bwlab.formats.dialects.kohya import path_or_none
from bwlab.formats.dialects.own import own_name
from bwlab.formats.keys import ALPHA, DOWN, UP, kohya_name_of
from bwlab.formats.metadata import lora_network
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.own_scheme import scheme_entries
from bwlab.formats.safetensors import write_tensors
from bwlab.formats.torch_tensors import lazy_tensor
from bwlab.linalg.factored import Array, FactoredMatrix

UNET_KIND = "UNet"  # of `BlockScheme.denoiser`
UNET_SCHEMES = ("sd", "sdxl")
DIFFUSERS_LEAVES = {DOWN: "lora_A.weight", UP: "lora_B.weight"}
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
    If all layers share one alpha, every tensor is written bit for bit. Files for transformers have no alpha: there
    `alpha_i / rank` is folded into up.

    Args:
        metadata: further entries, such as `bwlab.config`, which take precedence over the default entries.
        dtype: dtype of the stored floats; None keeps the adapter's dtype.

    Raises:
        BwlabError: a tensor contains NaN or infinity, the disk is full, or the folder is not writable.

    """
    alpha = Counter(layer.alpha for layer in adapter.layers.values()).most_common(1)[0][0]
    leaves = {layer_path: layer.file_tensors(alpha) for layer_path, layer in adapter.layers.items()}
    kohya = _has_kohya_names(adapter.scheme, adapter.layers)
    if not kohya:
        leaves = {path: _scaled(adapter.layers[path], own, adapter.type_name) for path, own in leaves.items()}
    tensors = {
        _key(adapter.scheme, layer_path, leaf, kohya): _stored(tensor, leaf, dtype)
        for layer_path, own in leaves.items()
        for leaf, tensor in own.items()
    }
    try:
        shapes = _shapes(adapter, leaves)
        own = file_metadata(adapter, alpha) | (_own_network(adapter) if shapes else {})
        entries = {**adapter.metadata, **own, **shapes, **(metadata or {})}
        write_tensors(path, {key: lazy_tensor(tensor, key) for key, tensor in tensors.items()}, entries)
    except BrokenFileError:
        _require_finite(f"saving {path}", tensors)
        raise


def _has_kohya_names(scheme: BlockScheme, paths: Iterable[str]) -> bool:
    """Return whether files of a scheme have kohya's keys: those for UNets with layers that kohya's names mean."""
    if scheme.denoiser != UNET_KIND or scheme.name in UNET_SCHEMES:
        return scheme.denoiser == UNET_KIND
    return all(path_or_none(kohya_name_of(path)) == path for path in paths)


def _key(scheme: BlockScheme, path: str, leaf: str, kohya: bool) -> str:
    """Return the key of a tensor: as kohya's trainer writes it for UNets, as diffusers does for transformers.

    Keys of a plugin's family begin with the name of its scheme.
    """
    if kohya:
        return f"{kohya_name_of(path, two_text_encoders=scheme.name == 'sdxl')}.{leaf}"
    name = own_name(TRANSFORMER if scheme.name in TRANSFORMERS else scheme.name, path)
    return f"{name}.{DIFFUSERS_LEAVES.get(leaf, leaf)}"


def _scaled(layer: AdapterLayer, tensors: dict[str, Tensor], type_name: str) -> dict[str, Tensor]:
    """Return the factors of a LoRA layer with its scale in up and no alpha, which diffusers reads for no transformer.

    The tensors of other layers are returned as they are.
    """
    if tensors.keys() != {DOWN, UP, ALPHA} or not _leaves_mean_delta(layer, tensors, type_name):
        return tensors
    scale = float(tensors[ALPHA]) / len(tensors[DOWN])
    return {DOWN: tensors[DOWN], UP: tensors[UP] if scale == 1 else scale * tensors[UP]}


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
    network, arguments = next(iter(adapter.layers.values())).network()
    entries = {
        "format": "pt",
        "ss_network_module": lora_network(adapter.scheme) if network == LORA_NETWORK else network,
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
        arguments = {**arguments, "conv_dim": str(conv_ranks[-1]), "conv_alpha": f"{alpha:g}"}
    if arguments:
        entries["ss_network_args"] = json.dumps(arguments)
    if adapter.scheme.name not in (*UNET_SCHEMES, *TRANSFORMERS):
        entries |= scheme_entries(adapter.scheme)
    return entries | _base_model(adapter)


def _shapes(adapter: Adapter, leaves: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """Return the entry with the shapes of the weights whose deltas only the adapter type determines; empty if none."""
    shapes = {
        path: list(layer.weight_shape)
        for path, layer in adapter.layers.items()
        if not _leaves_mean_delta(layer, leaves[path], adapter.type_name)
    }
    return {SHAPES_KEY: json.dumps(shapes, separators=(",", ":"))} if shapes else {}


def _own_network(adapter: Adapter) -> dict[str, str]:
    """Return the entry that names the package of a type that no other tool computes as its leaves say.

    It is empty where the type names a network module of its own.
    """
    layer = next(iter(adapter.layers.values()))
    named = layer.network()[0] != LORA_NETWORK
    return {} if named else {"ss_network_module": type(layer).__module__.partition(".")[0]}


def _leaves_mean_delta(layer: AdapterLayer, tensors: Mapping[str, Tensor], type_name: str) -> bool:
    """Return whether an algorithm of bwlab knows all leaves of a layer, and computes the layer's delta from them.

    A type may give the names of LoRA another meaning: rsLoRA's scale is alpha / sqrt(rank). The products of
    both deltas with one random vector are compared; the tolerance covers half precision.
    """
    if _computes_as_lora(layer):
        return True
    leaves = {leaf: lazy_tensor(tensor, leaf) for leaf, tensor in tensors.items() if leaf != ALPHA}
    shapes = {leaf: tensor.shape for leaf, tensor in leaves.items()}
    algorithm = algorithm_of(shapes)
    if algorithm is None or not algorithm.leaves >= leaves.keys():
        return False
    if type_name in ALGORITHMS:
        return True  # readers do not ask a plugin for a type of this name
    try:
        if algorithm.shape(shapes) is None:
            return False
    except (UnfitLeaves, KeyError):
        return False
    if layer.needs_base_weight:
        return False
    alpha = float(tensors[ALPHA]) if ALPHA in tensors else None
    module = ModuleWeights("a layer", algorithm.name, leaves, alpha, "the adapter to be saved")
    return not module.needs_base and _agree(module.matrix(), _matrix(layer))


def _computes_as_lora(layer: AdapterLayer) -> bool:
    """Return whether a layer's class leaves all methods that give the leaves of LoRA their meaning as they are."""
    names = ("scale", "tensors", "file_tensors", "forward", "add_to", "delta", "factors")
    return isinstance(layer, LowRankLayer) and all(
        getattr(type(layer), name) is getattr(LowRankLayer, name) for name in names
    )


def _matrix(layer: AdapterLayer) -> FactoredMatrix | Array:
    factors = layer.factors()
    if factors is not None:
        return factors
    delta: Array = layer.delta().detach().to("cpu", torch.float64).flatten(1).numpy()
    return delta


def _agree(a: FactoredMatrix | Array, b: FactoredMatrix | Array) -> bool:
    """Return whether two matrices give the same vector for a random one, to one per cent of its length."""
    if a.shape != b.shape:
        return False
    probe = np.random.default_rng(0).standard_normal(a.shape[1])
    image_a, image_b = (m.up @ (m.down @ probe) if isinstance(m, FactoredMatrix) else m @ probe for m in (a, b))
    return bool(np.linalg.norm(image_a - image_b) <= 0.01 * np.linalg.norm(image_b))


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
