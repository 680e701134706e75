"""Conversion between torch's tensors and the tensors of files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bwlab.formats.tensors import DTYPES, LazyTensor

if TYPE_CHECKING:
    from torch import Tensor


def lazy_tensor(tensor: Tensor, key: str = "") -> LazyTensor:
    """Return a torch tensor as a file's tensor of the same dtype; KeyError for a dtype that files lack."""
    dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    return LazyTensor(key, dtype, tuple(tensor.shape), lambda: _numbers(tensor, dtype))


def torch_tensor(tensor: LazyTensor) -> Tensor:
    """Return a file's tensor in its own dtype and its own memory; float8 is returned as float32."""
    import torch

    values = torch.from_numpy(np.array(tensor.read()))
    return values.to(torch.bfloat16) if tensor.dtype == "BF16" else values


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file of tensors in their own dtypes, NaN and infinity included.

    The bytes are those of `safetensors.torch.save`, which takes ten times as long for many small tensors.
    """
    from safetensors import TensorSpec, serialize

    stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}  # kept while it is read
    specs = {
        key: TensorSpec(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tensor.shape,
            data_ptr=tensor.data_ptr(),
            data_len=tensor.nbytes,
        )
        for key, tensor in stored.items()
    }
    return bytes(serialize(specs, metadata=None if metadata is None else dict(metadata)))


def _numbers(tensor: Tensor, dtype: str) -> NDArray[np.generic]:
    there = tensor.detach().cpu()
    values: NDArray[np.generic] = (there.float() if dtype == "BF16" else there).numpy()
    return values
