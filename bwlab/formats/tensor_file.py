"""Writes safetensors files tensor by tensor: what is not yet written is not yet in memory.

Layout (safetensors specification): 8 bytes of header length, little endian; a JSON header; the tensors' bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from bwlab.formats.atomic import write_pieces_atomically
from bwlab.formats.encoding import SIZES, cast, encoded, size_in_bytes, written_dtype
from bwlab.formats.tensors import LazyTensor


def write_tensors(
    path: str | Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str], dtype: str | None = None
) -> None:
    """Writes tensors by key, whole or not at all; the same tensors and metadata make the same bytes.

    Args:
        path: of the file.
        tensors: each is read when its turn comes.
        metadata: of the header.
        dtype: of all floats that are not single numbers such as alpha; None: each tensor's own.

    Raises:
        BwlabError: a number is NaN, infinite or too large for its dtype, or the disk is full or not writable.
    """
    rounded = {key: cast(tensor, dtype) if tensor.shape else tensor for key, tensor in tensors.items()}
    write_pieces_atomically(path, _pieces(rounded, metadata))


def _pieces(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> Iterator[bytes]:
    # Wide dtypes first, so that every tensor starts at a multiple of its numbers' size; then by name.
    keys = sorted(tensors, key=lambda key: (-SIZES[written_dtype(tensors[key].dtype)], key))
    fields: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for key in keys:
        start, end = end, end + size_in_bytes(tensors[key])
        dtype, shape = written_dtype(tensors[key].dtype), list(tensors[key].shape)
        fields[key] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for key in keys:
        yield encoded(tensors[key])
