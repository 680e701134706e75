"""Saves adapters as kohya files, which A1111, Forge, ComfyUI, kohya's trainer and diffusers read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.errors import BwlabError
from bwlab.formats.keys import kohya_name_of
from bwlab.formats.metadata import file_metadata
from bwlab.formats.tensor_file import write_tensors
from bwlab.formats.torch_tensors import lazy_tensor


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


def _stored(tensor: Tensor, leaf: str, dtype: torch.dtype | None) -> Tensor:
    # alpha stays float32: as bfloat16 an alpha of 257 would come back as 256.
    cast = tensor if dtype is None or leaf == "alpha" or not tensor.is_floating_point() else tensor.to(dtype)
    return cast.detach().to("cpu").contiguous()


def _require_finite(asked: str, tensors: Mapping[str, Tensor]) -> None:
    bad = [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        found = f"{len(bad)} of {len(tensors)} tensors hold NaN or infinity, first {bad[0]}"
        raise BwlabError(asked, found, "The training diverged: use an earlier checkpoint or a lower learning rate")
