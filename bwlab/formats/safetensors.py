"""Read safetensors adapter files with numpy alone: no torch, bfloat16 included.

Layout (safetensors specification): 8 bytes of header length, little endian; a JSON header; the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from io import FileIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bwlab.errors import BrokenFileError, BwlabError
from bwlab.files import write_pieces_atomically
from bwlab.formats.tensors import (
    MOST_DIMENSIONS,
    SIZES,
    LazyTensor,
    cast,
    encoded,
    size_in_bytes,
    widen_bfloat16,
    widen_e4m3,
    widen_e5m2,
    written_dtype,
)
from bwlab.text import HALVES

MAX_HEADER_BYTES = 100_000_000
MOST_CHARACTERS = 2000
"""Length of the longest key; those of real adapters have some 150 characters."""

# numpy has no name for bfloat16 and the 8-bit floats: they are read as whole numbers and widened.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
ITEM_SIZES = {name: np.dtype(code).itemsize for name, code in _DTYPES.items()}
_WIDENED = {"BF16": widen_bfloat16, "F8_E4M3": widen_e4m3, "F8_E5M2": widen_e5m2}


@dataclass(frozen=True)
class TensorEntry:
    """The entry of a tensor: its dtype as named in the file, its shape, and its bytes `start..end` in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class AdapterFile:
    """A checked safetensors file: its entries without the tensors, which `read` loads.

    Raises:
        BwlabError: a key is longer than any tool's; the numbers in it may have more digits than Python reads.

    """

    path: Path
    metadata: Mapping[str, str]
    entries: Mapping[str, TensorEntry]
    _kept_open: list[FileIO] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        longest = max(self.entries, key=len, default="")
        if len(longest) > MOST_CHARACTERS:
            found = f"the key {longest[:40]}... has {len(longest):,} characters, more than {MOST_CHARACTERS:,}"
            raise _bad(self.path, found)

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the file open inside the `with` block, which makes many reads faster."""
        with FileIO(self.path) as file:
            self._kept_open.append(file)
            try:
                yield
            finally:
                self._kept_open.remove(file)

    def read(self, key: str) -> NDArray[np.generic]:
        """Return a tensor in its own dtype; bfloat16 and float8 are returned as the same numbers in float32."""
        shape = self.entries[key].shape
        return self.read_rows(key, 0, shape[0]) if shape else self._read(key, 0, shape)

    def read_rows(self, key: str, first: int, last: int) -> NDArray[np.generic]:
        """Return the rows `first` to before `last` of a tensor, as `read` does."""
        shape = self.entries[key].shape
        return self._read(key, first * math.prod(shape[1:]), (last - first, *shape[1:]))

    def _read(self, key: str, skipped: int, shape: tuple[int, ...]) -> NDArray[np.generic]:
        entry = self.entries[key]
        values = np.empty(math.prod(shape), dtype=_DTYPES[entry.dtype])
        # Not memory-mapped: for module-sized pieces that are used once, page faults take longer than a copy.
        with nullcontext(self._kept_open[-1]) if self._kept_open else FileIO(self.path) as file:
            file.seek(entry.start + skipped * values.itemsize)
            if file.readinto(values.data) != values.nbytes:
                raise _bad(self.path, f"{key} is cut short since the file was opened")
        values = values.reshape(shape)
        return _WIDENED[entry.dtype](values) if entry.dtype in _WIDENED else values

    def tensor(self, key: str) -> LazyTensor:
        """Return a tensor that is read on demand."""
        entry = self.entries[key]
        return LazyTensor(
            key,
            entry.dtype,
            entry.shape,
            lambda: self.read(key),
            str(self.path),
            lambda first, last: self.read_rows(key, first, last),
        )


def open_adapter_file(path: str | Path) -> AdapterFile:
    """Return the header of a safetensors file, checked against the file's size.

    Raises:
        BwlabError: the file is missing, empty, cut short, or not a safetensors file.

    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > MAX_HEADER_BYTES:
                raise _bad(path, "it is empty" if size == 0 else _other_file(prefix) or "it is no safetensors file")
            if 8 + length > size:
                cut = f"it is cut short or no safetensors file: {size} bytes, {8 + length} of them header"
                raise _bad(path, _other_file(prefix) or cut)
            header = file.read(length)
    except OSError as error:
        raise BwlabError(f"reading adapter {path}", error.strerror or str(error), "Give an adapter file") from error
    metadata, entries = _parse_header(path, header, 8 + length)
    end = max((entry.end for entry in entries.values()), default=8 + length)
    if end > size:
        raise _bad(path, f"it is cut short: {size} bytes where its header promises {end}")
    return AdapterFile(path, metadata, entries)


def _other_file(beginning: bytes) -> str | None:
    """Return what a file that begins with these 8 bytes is; None if that is not known.

    Web pages and pointers of Git LFS are what people get where a download goes wrong.
    """
    if beginning.lstrip().startswith(b"<"):
        return "it is a web page, not the file: the download went wrong"
    if beginning.startswith(b"version "):
        return "it is a pointer of Git LFS, not the file: git lfs pull fetches it"
    if beginning.startswith(b"PK\x03\x04"):
        return "it is a zip archive or a pickle of torch, no safetensors file"
    return None


def _parse_header(path: Path, header: bytes, data_start: int) -> tuple[dict[str, str], dict[str, TensorEntry]]:
    try:
        text = header.decode()
        fields = json.loads(text, object_pairs_hook=_once)
        metadata = {str(key): str(value) for key, value in fields.pop("__metadata__", {}).items()}
        _require_text(text, (*fields, *metadata, *metadata.values()))
        entries = {key: _entry(field, data_start) for key, field in fields.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise _bad(path, "its header is no safetensors header") from error
    for key, entry in entries.items():
        if entry.dtype not in _DTYPES:
            raise _bad(path, f"{key} has dtype {entry.dtype}, which bwlab does not read")
        if len(entry.shape) > MOST_DIMENSIONS:
            raise _bad(path, f"{key} has {len(entry.shape)} dimensions; no adapter has more than {MOST_DIMENSIONS}")
        if entry.end - entry.start != math.prod(entry.shape) * ITEM_SIZES[entry.dtype]:
            raise _bad(path, f"{key} has shape {entry.shape} but {entry.end - entry.start} bytes")
    in_order = sorted(entries.items(), key=lambda item: (item[1].start, item[1].end))
    for (one, before), (other, after) in pairwise(in_order):
        if after.start < before.end:
            raise _bad(path, f"{one} and {other} share bytes, which the format forbids")
    return metadata, entries


def _require_text(header: str, texts: Iterable[str]) -> None:
    """Raise ValueError if one of the texts of a header has half a surrogate pair, which UTF-8 cannot write."""
    if "\\ud" in header.lower() and any(map(HALVES.search, texts)):
        raise ValueError("half a surrogate pair")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object; ValueError if it repeats a key, since Python would drop one of the values."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key occurs twice")
    return fields


def _entry(field: Mapping[str, object], data_start: int) -> TensorEntry:
    shape, offsets = field["shape"], field["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError("shape and data_offsets are lists")
    start, end = offsets
    if any(type(number) is not int or number < 0 for number in (*shape, *offsets)):
        raise ValueError("a size that is no whole number, or negative")
    return TensorEntry(str(field["dtype"]), tuple(shape), data_start + start, data_start + end)


def _bad(path: Path, found: str) -> BrokenFileError:
    return BrokenFileError(f"reading adapter {path}", found, "Give a whole .safetensors adapter file")


def write_tensors(
    path: str | Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str], dtype: str | None = None
) -> None:
    """Write tensors by key, completely or not at all; the same tensors and metadata give the same bytes.

    Args:
        path: the path of the file.
        tensors: the tensors by key; each is read just before it is written.
        metadata: the metadata for the header.
        dtype: the dtype of all floats except single numbers such as alpha; None for each tensor's own.

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
