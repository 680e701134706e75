"""Read `.pt` and `.bin` files of old tools: their pickles as data, and their tensors from where they are in the file.

torch writes two forms. A zip archive, since torch 1.6, holds the pickle `NAME/data.pkl` and a record `NAME/data/KEY`
for each storage. Older files are pickles one after another (a number that marks the form, its version, facts on the
machine, the contents, the keys of the storages), and then the number of numbers and the numbers of each storage.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO, FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bwlab.errors import BwlabError
from bwlab.formats.safetensors import ITEM_SIZES, AdapterFile, TensorEntry
from bwlab.formats.unpickle import NeedsCodeError, StoredTensor, Unpickler
from bwlab.text import HALVES

ZIP = b"PK\x03\x04"
OLD_FORM = 0x1950A86A20F9469CFC6C
LONGEST_READ = 4_000_000
"""The bytes of a pickle, and of the directory of a zip archive, that are read; 10,000 tensors need less than half."""
DEEPEST = 50
"""How many containers may hold each other."""
LEAST_LETTERS, MOST_LETTERS = 40, 10_000_000
"""The letters that the key of a value counts for at least, and that all keys may have together."""
OTHER_ORDER = "its numbers are in the byte order of another machine"
BROKEN = (
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    NotImplementedError,
)
"""What reading raises where a file is broken."""

# torch's classes of storages, and dtypes -> dtypes as safetensors names them.
DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "UntypedStorage": "U8",
    "BoolStorage": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}

Place = tuple[int, int]
"""The bytes `start..end` of a file."""


@dataclass(frozen=True)
class PickleFile(AdapterFile):
    """The tensors of a pickle by key: by index for lists, by joined keys for nested dicts.

    Attributes:
        rows: the numbers of each tensor from its first to its last one, in the order of the file.
        strides: the number of places from an index of each dimension to the next one.

    """

    rows: AdapterFile
    strides: Mapping[str, tuple[int, ...]]

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the file open inside the `with` block, which makes many reads faster."""
        with self.rows.kept_open():
            yield

    def read(self, key: str) -> NDArray[np.generic]:
        """Return a tensor in its own dtype; bfloat16 and float8 are returned as the same numbers in float32."""
        row, shape = self.rows.read(key), self.entries[key].shape
        steps = zip(shape, self.strides[key], strict=True)
        strides = tuple(step * row.itemsize if count > 1 else 0 for count, step in steps)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(row, shape, strides)).reshape(shape)


class _BoundedFile(FileIO):
    """A file of which at most `LONGEST_READ` bytes are read at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LONGEST_READ:
            raise _PickleError(f"it has {size:,} bytes beside the tensors; at most {LONGEST_READ:,} are read")
        return super().read(size)


class _PickleError(ValueError):
    """What is wrong with a file, in words for people."""


def open_pickle(path: Path) -> PickleFile:
    """Return the tensors of a pickle; their numbers are read on demand.

    Raises:
        BwlabError: the file is missing or broken, needs more than tensors and plain containers, or has tensors that
            are larger than the file.

    """
    try:
        with _BoundedFile(path) as file:
            zipped = file.read(len(ZIP)) == ZIP
            file.seek(0)
            contents, places = _zipped(file) if zipped else _in_a_row(file)
        return _pickle_file(path, contents, places)
    except OSError as error:
        raise _bad(path, error.strerror or str(error)) from error
    except NeedsCodeError as error:
        found = f"a pickle that needs {error}, which is no part of tensors; that could run code, so it was not loaded"
        raise _bad(path, found) from error
    except _PickleError as error:
        raise _bad(path, str(error)) from error
    except BROKEN as error:
        raise _bad(path, "it is broken, cut short, or no file that torch wrote") from error


def _zipped(file: FileIO) -> tuple[object, Mapping[str, Place]]:
    """Return what the pickle of a zip archive holds, and the places of storages by key."""
    with zipfile.ZipFile(file) as archive:
        records = {record.filename.partition("/")[2]: record for record in archive.infolist()}
    packed = [name for name, record in records.items() if record.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise _PickleError(f"a zip archive with the compressed record {packed[0]}; torch compresses none")
    if "byteorder" in records and _bytes(file, records["byteorder"]) != b"little":
        raise _PickleError(OTHER_ORDER)
    reader = Unpickler()
    contents = reader.read(BytesIO(_bytes(file, records["data.pkl"])))
    return contents, {key: _place(file, records[f"data/{key}"]) for key in reader.storages}


def _place(file: FileIO, record: zipfile.ZipInfo) -> Place:
    file.seek(record.header_offset + 26)
    start = record.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return start, start + record.file_size


def _bytes(file: FileIO, record: zipfile.ZipInfo) -> bytes:
    start, end = _place(file, record)
    file.seek(start)
    return file.read(end - start)


def _in_a_row(file: FileIO) -> tuple[object, Mapping[str, Place]]:
    """Return what the pickles of an older file hold, and the places of storages by key."""
    beginning = BytesIO(file.read(LONGEST_READ))
    if Unpickler().read(beginning) != OLD_FORM:
        raise ValueError("no number that marks the form")
    _version, machine = (Unpickler().read(beginning) for _ in range(2))
    if not isinstance(machine, dict) or machine["little_endian"] is not True:
        raise _PickleError(OTHER_ORDER)
    reader = Unpickler()
    contents, keys = reader.read(beginning), Unpickler().read(beginning)
    if not isinstance(keys, list):
        raise ValueError("no list of storages")
    places, start = {}, beginning.tell()
    for key in keys:
        storage = reader.storages[key]
        file.seek(start)
        (size,) = struct.unpack("<q", file.read(8))
        if size != storage.size:
            raise ValueError("another number of numbers")
        places[key] = start + 8, start + 8 + size * ITEM_SIZES[_dtype(f"storage {key}", storage.dtype)]
        start = places[key][1]
    return contents, places


def _pickle_file(path: Path, contents: object, places: Mapping[str, Place]) -> PickleFile:
    """Return the file with these contents, whose tensors are checked against its size."""
    values = _flatten(contents)
    tensors = {key: value for key, value in values.items() if isinstance(value, StoredTensor)}
    metadata = {key: value for key, value in values.items() if isinstance(value, str)}
    if any(map(HALVES.search, (*tensors, *metadata, *metadata.values()))):
        raise ValueError("half a surrogate pair")
    if not tensors:
        raise _PickleError("it holds no tensors")
    size = path.stat().st_size
    rows = {key: _row(key, tensor, places, size) for key, tensor in tensors.items()}
    entries = {key: replace(row, shape=tensors[key].shape) for key, row in rows.items()}
    total = sum(math.prod(entry.shape) * ITEM_SIZES[entry.dtype] for entry in entries.values())
    if total > 2 * size:
        raise _PickleError(f"its tensors have {total:,} bytes together, but the file {size:,}")
    strides = {key: tensor.strides for key, tensor in tensors.items()}
    return PickleFile(path, metadata, entries, AdapterFile(path, {}, rows), strides)


def _row(key: str, tensor: StoredTensor, places: Mapping[str, Place], size: int) -> TensorEntry:
    """Return the place in a file of `size` bytes of the numbers of a tensor, from its first to its last one.

    Raises:
        _PickleError: they are not all in the storage and the file, or one of them is several of the tensor.

    """
    dtype = _dtype(key, tensor.dtype or tensor.storage.dtype)
    start, end = places[tensor.storage.key]
    count = math.prod(tensor.shape)
    reach = sum((many - 1) * step for many, step in zip(tensor.shape, tensor.strides, strict=True))
    numbers = 1 + reach if count else 0
    first = start + tensor.offset * ITEM_SIZES[dtype]
    last = first + numbers * ITEM_SIZES[dtype]
    if last > min(end, size) or count > numbers:
        raise _PickleError(f"{key} has shape {tensor.shape}, but {end - start:,} bytes are stored for it")
    return TensorEntry(dtype, (numbers,), first, last)


def _dtype(key: str, name: str) -> str:
    own = name.rpartition(".")[2]
    if own not in DTYPES:
        raise _PickleError(f"{key} has dtype {own}, which bwlab does not read")
    return DTYPES[own]


def _flatten(contents: object) -> dict[str, object]:
    """Return everything in nested dicts and lists by key; the wrapper `state_dict` adds nothing to keys.

    Raises:
        _PickleError: two values have one key, or containers hold each other too often.

    """
    values: dict[str, object] = {}
    waiting, letters = [("", contents, 0)], 0
    while waiting:
        prefix, value, depth = waiting.pop()
        if not isinstance(value, dict | list | tuple):
            if prefix in values:
                raise _PickleError(f"two values have the key {prefix}")
            values[prefix] = value
            continue
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in reversed(list(entries)):
            name = prefix if key == "state_dict" else f"{prefix}.{key}".lstrip(".")
            letters += len(name) + LEAST_LETTERS
            if depth == DEEPEST or letters > MOST_LETTERS:
                raise _PickleError("its containers hold each other too often")
            waiting.append((name, inner, depth + 1))
    return values


def _bad(path: Path, found: str) -> BwlabError:
    return BwlabError(f"reading adapter {path}", found, "Give a file with tensors only, preferably a .safetensors file")
