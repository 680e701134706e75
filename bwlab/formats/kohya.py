"""Saves and loads adapters as kohya files, which A1111, Forge, ComfyUI, kohya's trainer and diffusers read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.layer import AdapterLayer, BaseLayer, kind_of
from bwlab.adapters.modules import TextEncoders, layers_by_path, require_layers
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.formats.files import open_adapter_file, require_kohya
from bwlab.formats.keys import kohya_name_of, path_of, split_key
from bwlab.formats.metadata import TYPE_KEY, file_metadata
from bwlab.formats.tensor_file import write_tensors
from bwlab.formats.torch_tensors import lazy_tensor
from bwlab.registry import AdapterType


class AdapterTypes(Protocol):
    """Whatever knows the adapter types: the plugin manager."""

    def adapter_types(self) -> dict[str, AdapterType]:
        """Name -> adapter type."""


def save_adapter(
    adapter: Adapter,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes an adapter to `path`, whole or not at all.

    The file carries one alpha, the commonest among the layers; other layers' `alpha_i / alpha` is folded into up. Where
    all layers share one alpha every tensor is written bit for bit.

    Args:
        metadata: further entries, such as `bwlab.config`; they win over those written by default.
        dtype: what to store floats as; None keeps the adapter's own.

    Raises:
        BwlabError: a tensor holds NaN or infinity, the disk is full, or the folder is not writable.
    """
    alpha = Counter(layer.alpha for layer in adapter.layers.values()).most_common(1)[0][0]
    two_encoders = adapter.scheme.name == "sdxl"
    tensors: dict[str, Tensor] = {}
    for layer_path, layer in adapter.layers.items():
        name = kohya_name_of(layer_path, two_encoders)
        for leaf, tensor in layer.file_tensors(alpha).items():
            tensors[f"{name}.{leaf}"] = _stored(tensor, leaf, dtype)
    _require_finite(f"saving {path}", tensors)
    entries = {**adapter.metadata, **file_metadata(adapter, alpha), **(metadata or {})}
    write_tensors(path, {key: lazy_tensor(tensor, key) for key, tensor in tensors.items()}, entries)


def load_adapter(
    path: str | Path,
    unet: nn.Module,
    manager: AdapterTypes,
    scheme: BlockScheme,
    *,
    text_encoder: TextEncoders = None,
) -> Adapter:
    """The adapter of a kohya file, for this model, in evaluation mode (no gradients).

    Its type is what the file's `bwlab.adapter_type` says; else, as in the files of other tools, the narrowest type
    that has the file's leaves and adapts all its modules.

    Raises:
        BwlabError: the file is broken, of another dialect, made for another architecture, holds NaN, or is of a type
            that no plugin provides.
    """
    file = open_adapter_file(path)
    require_kohya(file)
    try:
        tensors = safetensors.torch.load_file(file.path)
    except safetensors.SafetensorError as error:
        raise BwlabError(f"loading adapter {path}", str(error), "Give a whole .safetensors adapter file") from error
    _require_finite(f"loading {path}", tensors)
    modules = _by_path(tensors)
    model_layers = layers_by_path(unet, text_encoder)
    require_layers(f"loading adapter {path}", modules, model_layers, "load it with the text encoder")
    adapter_type = _type_of(path, file.metadata.get(TYPE_KEY), modules, model_layers, manager.adapter_types())
    layers = _build(path, adapter_type.load(), modules, model_layers)
    return Adapter(Path(path).stem, adapter_type.name, layers, scheme, dict(file.metadata)).eval()


def _stored(tensor: Tensor, leaf: str, dtype: torch.dtype | None) -> Tensor:
    # alpha stays float32: as bfloat16 an alpha of 257 would come back as 256.
    cast = tensor if dtype is None or leaf == "alpha" or not tensor.is_floating_point() else tensor.to(dtype)
    return cast.detach().to("cpu").contiguous()


def _require_finite(asked: str, tensors: Mapping[str, Tensor]) -> None:
    bad = [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        found = f"{len(bad)} of {len(tensors)} tensors hold NaN or infinity, first {bad[0]}"
        raise BwlabError(asked, found, "The training diverged: use an earlier checkpoint or a lower learning rate")


def _by_path(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Adapter path -> leaf -> tensor."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, leaf = split_key(key)
        modules.setdefault(path_of(name), {})[leaf] = tensor
    return modules


def _type_of(
    path: str | Path,
    named: str | None,
    modules: Mapping[str, Mapping[str, Tensor]],
    layers: Mapping[str, BaseLayer],
    types: Mapping[str, AdapterType],
) -> AdapterType:
    if named is not None and named in types:
        return types[named]
    leaves = {leaf for module in modules.values() for leaf in module}
    fitting = [candidate for candidate in types.values() if leaves <= set(candidate.leaves)]
    if not fitting:
        raise BwlabError(
            f"loading adapter {path}",
            f"it is of type {named or 'unknown'}, its modules hold {', '.join(sorted(leaves))}",
            f"Install a plugin for it; types here: {', '.join(sorted(types)) or 'none'}",
        )
    return min(fitting, key=lambda candidate: _distance(candidate, modules, layers))


def _distance(
    candidate: AdapterType, modules: Mapping[str, object], layers: Mapping[str, BaseLayer]
) -> tuple[int, ...]:
    """Sorts types by how many of the file's modules they would not adapt, then by how many others they would."""
    adapted = {layer_path for layer_path, layer in layers.items() if candidate.targets(layer_path, kind_of(layer))}
    return len(set(modules) - adapted), len(adapted - set(modules))


def _build(
    path: str | Path,
    layer_class: type[AdapterLayer],
    modules: Mapping[str, Mapping[str, Tensor]],
    model_layers: Mapping[str, BaseLayer],
) -> dict[str, AdapterLayer]:
    layers: dict[str, AdapterLayer] = {}
    for module_path, base in model_layers.items():
        if module_path not in modules:
            continue
        try:
            layers[module_path] = layer_class.from_tensors(base, modules[module_path])
        except BwlabError as error:
            raise BwlabError(
                f"loading adapter {path}", f"{module_path}: {error.asked}: {error.found}", error.fix
            ) from error
    return layers
