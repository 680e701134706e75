"""Safetensors files as bytes, with everything in them open to change: what no library would write can be made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


@dataclass
class RawTensor:
    """A tensor of a file.

    Attributes:
        dtype: the dtype in the header.
        shape: the shape in the header; anything that JSON can hold.
        data: the bytes.
        offsets: the offsets in the header; None for those of the bytes.

    """

    dtype: str
    shape: Any
    data: bytes
    offsets: Any = None

    def filled(self) -> RawTensor:
        """Return the tensor with as many bytes as its dtype and shape ask for, cut or repeated."""
        size = math.prod(self.shape) * WIDTHS.get(self.dtype, 4)
        data = (self.data or b"\0") * (size // max(len(self.data), 1) + 1)
        return RawTensor(self.dtype, self.shape, data[:size])


@dataclass
class RawFile:
    """A safetensors file.

    Attributes:
        tensors: key -> tensor, in the order of the file.
        metadata: the metadata in the header; anything that JSON can hold.
        header: text to write in place of the header.

    """

    tensors: dict[str, RawTensor] = field(default_factory=dict)
    metadata: Any = field(default_factory=dict)
    header: bytes | None = None

    @classmethod
    def read(cls, path: Path) -> RawFile:
        """Return the contents of a whole file."""
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        fields: dict[str, Any] = json.loads(content[8 : 8 + length])
        metadata = fields.pop("__metadata__", {})
        data = content[8 + length :]
        tensors = {
            key: RawTensor(entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
            for key, entry in fields.items()
        }
        return cls(tensors, metadata)

    def to_bytes(self) -> bytes:
        """Return the file, however broken it is."""
        header: dict[str, Any] = {"__metadata__": self.metadata} if self.metadata != {} else {}
        start, pieces = 0, []
        for key, tensor in self.tensors.items():
            end = start + len(tensor.data)
            offsets = [start, end] if tensor.offsets is None else tensor.offsets
            header[key] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
            pieces.append(tensor.data)
            start = end
        text = json.dumps(header).encode() if self.header is None else self.header
        return len(text).to_bytes(8, "little") + text + b"".join(pieces)


def copied(file: RawFile) -> RawFile:
    """Return a copy whose tensors and metadata can be changed."""
    metadata = dict(file.metadata) if isinstance(file.metadata, Mapping) else file.metadata
    tensors = {key: RawTensor(each.dtype, each.shape, each.data, each.offsets) for key, each in file.tensors.items()}
    return RawFile(tensors, metadata, file.header)
