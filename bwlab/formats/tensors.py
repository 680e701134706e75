"""Tensors of files that are read on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bwlab.errors import BrokenFileError, BwlabError

Numbers = NDArray[np.floating]

# numpy's and torch's names -> those of safetensors files.
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
MOST_DIMENSIONS = 8
"""No algorithm's tensors have more than five; a shape of thousands of sizes takes long to multiply."""
LARGEST = float(np.finfo(np.float32).max)
"""The largest number of an adapter that is read: with larger ones, products of leaves would overflow float64."""
FLOAT16_INFINITY, BFLOAT16_INFINITY, SIGN = 0x7C00, 0x7F80, 0x8000  # as bits

# Names of dtypes in safetensors files. The 8-bit floats are read but not written, since few tools read them.
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_OTHERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
_WIDER = {"F8_E4M3": "F16", "F8_E5M2": "F16"}

SIZES = {name: np.dtype(code).itemsize for name, code in {**_FLOATS, **_OTHERS}.items()} | {"BF16": 2}

DTYPE_OPTIONS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A description of a tensor and its source, without its numbers.

    Attributes:
        key: the name of the tensor in the file, for messages.
        dtype: the dtype as safetensors files name it: `"F32"`, `"BF16"`, `"F8_E4M3"`, ...
        shape: the shape; `()` for a single number.
        fetch: a function that reads the numbers in their own dtype; bfloat16 and float8, which numpy lacks, as float32.
        source: the file, for messages.
        fetch_rows: a function that reads the rows from a first one to before a last one; None: all are read and cut.

    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    fetch: Callable[[], NDArray[np.generic]]
    source: str = ""
    fetch_rows: Callable[[int, int], NDArray[np.generic]] | None = None

    @classmethod
    def of(cls, values: NDArray[np.generic], key: str = "", source: str = "") -> LazyTensor:
        """Return a tensor whose numbers are already in memory."""
        return cls(key, DTYPES.get(values.dtype.name, values.dtype.name), values.shape, lambda: values, source)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def read(self) -> NDArray[np.generic]:
        """Return the numbers in their own dtype; bfloat16 and float8 as the same numbers in float32."""
        return self.fetch().reshape(self.shape)

    def numbers(self, dtype: DTypeLike | None = np.float64) -> Numbers:
        """Return the numbers as floats of this dtype; None for their own dtype, or float64 if they are integers.

        Raises:
            BwlabError: a number is NaN, infinite, or beyond float32, where products of leaves would overflow.

        """
        stored = self.read()
        if dtype is None:
            dtype = stored.dtype if stored.dtype.kind == "f" else np.float64
        with np.errstate(over="ignore"):  # infinity is found below
            values: Numbers = stored.astype(dtype, copy=False)
        # Widening makes nothing infinite, and half precision is checked fastest before it is widened.
        if not _all_finite(stored if np.can_cast(stored.dtype, values.dtype) else values):
            raise self._unfit(~np.isfinite(values), "too large" if np.isfinite(stored).all() else "NaN or infinite")
        if stored.dtype.itemsize == 8 and largest_size(values) > LARGEST:
            raise self._unfit(np.abs(values) > LARGEST, "too large")
        return values

    def _unfit(self, wrong: NDArray[np.bool_], fault: str) -> BrokenFileError:
        """Return the error about the numbers that are marked as wrong."""
        found = f"{np.count_nonzero(wrong)} of the {wrong.size} numbers of {self.key} are {fault}"
        asked = f"reading adapter {self.source}" if self.source else "writing an adapter"
        return BrokenFileError(asked, found, "Its training failed; train it again")

    def rows(self, ranges: Sequence[tuple[int, int]]) -> LazyTensor:
        """Return these ranges of rows, one below the other, as a tensor that reads no others."""

        def fetch() -> NDArray[np.generic]:
            if self.fetch_rows is not None:
                pieces = [self.fetch_rows(first, last) for first, last in ranges]
            else:
                whole = self.read()
                pieces = [whole[first:last] for first, last in ranges]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

        shape = (sum(last - first for first, last in ranges), *self.shape[1:])
        return LazyTensor(self.key, self.dtype, shape, fetch, self.source)

    def loaded(self) -> LazyTensor:
        """Return the same tensor with its numbers in memory: what happens to its file changes them no more."""
        values = self.read()
        return LazyTensor(self.key, self.dtype, self.shape, lambda: values, self.source)

    def reshaped(self, shape: tuple[int, ...]) -> LazyTensor:
        """Return the same numbers in another shape of the same size."""
        return LazyTensor(self.key, self.dtype, shape, self.fetch, self.source)


def largest_size(values: NDArray[np.generic]) -> float:
    """Return the largest absolute value, 0 of no numbers, and NaN if there is one; makes no copy."""
    return float(np.maximum(float(values.max(initial=0)), -float(values.min(initial=0))))


def _all_finite(values: NDArray[np.generic]) -> bool:
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    return _all_below(values, FLOAT16_INFINITY)


def _all_below(values: NDArray[np.generic], infinity: int) -> bool:
    """Return whether numbers of 16 bits are finite, given the bits of infinity.

    Beyond the largest number there are only infinity and NaN: of either sign, the bits are in the numbers' order.
    """
    positive, negative = (values.view(bits).max(initial=0) for bits in (np.int16, np.uint16))
    return bool(positive < infinity and negative < infinity + SIGN)


def stacked(tensors: Sequence[LazyTensor], key: str) -> LazyTensor:
    """Return tensors with the same columns, one below the other, in float32 if their dtypes differ."""
    dtypes = {tensor.dtype for tensor in tensors}
    shape = (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:])

    def fetch() -> NDArray[np.generic]:
        return np.concatenate([tensor.read() for tensor in tensors])

    return LazyTensor(key, dtypes.pop() if len(dtypes) == 1 else "F32", shape, fetch, tensors[0].source)


def same_numbers(one: LazyTensor, other: LazyTensor) -> bool:
    """Return whether two tensors have the same shape and numbers; reads them only if they are two objects."""
    return one is other or (one.shape == other.shape and bool(np.array_equal(one.read(), other.read())))


def is_float(dtype: str) -> bool:
    """Return whether a dtype, as safetensors names it (`"F16"`), is a float type."""
    return dtype in _FLOATS or dtype == "BF16" or dtype in _WIDER


def written_dtype(dtype: str) -> str:
    """Return the dtype in which a tensor of this dtype is written: the same, or one that holds all its numbers.

    >>> written_dtype("F8_E4M3"), written_dtype("BF16")
    ('F16', 'BF16')
    """
    return _WIDER.get(dtype, dtype)


def encoded(tensor: LazyTensor) -> bytes:
    """Return the bytes of a tensor in its `written_dtype`, rounded to nearest if it has more digits.

    Raises:
        BwlabError: a number is NaN or infinite, or too large for the dtype.

    """
    dtype = written_dtype(tensor.dtype)
    if not is_float(dtype):
        return tensor.read().astype(_OTHERS[dtype], copy=False).tobytes()
    values = tensor.numbers(np.float64 if dtype == "F64" else np.float32)
    return narrowed(values, dtype, tensor.key).tobytes()


def narrowed(values: NDArray[np.floating], dtype: str, key: str = "") -> NDArray[np.generic]:
    """Return finite numbers in a file's float dtype (bfloat16 as uint16); `BwlabError` if a number overflows."""
    with np.errstate(over="ignore"):
        bits = round_bfloat16(values) if dtype == "BF16" else values.astype(_FLOATS[dtype], copy=False)
    if not (_all_below(bits, BFLOAT16_INFINITY) if dtype == "BF16" else _all_finite(bits)):
        largest = float(np.abs(values).max())
        raise BwlabError(
            f"writing {key} as {dtype}", f"its largest number, {largest:g}, does not fit", "Write it as fp32 or bf16"
        )
    return bits


def widened(bits: NDArray[np.generic], dtype: str) -> NDArray[np.floating]:
    """Return the result of `narrowed` as numbers again."""
    wide: NDArray[np.floating] = widen_bfloat16(bits) if dtype == "BF16" else bits.astype(bits.dtype, copy=False)
    return wide


def round_bfloat16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Return the nearest bfloat16 to each finite number, ties to even, as its 16 bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    return rounded.astype(np.uint16)


def size_in_bytes(tensor: LazyTensor) -> int:
    """Return the size of the tensor in a file, in bytes."""
    return math.prod(tensor.shape) * SIZES[written_dtype(tensor.dtype)]


def in_dtype(values: NDArray[np.floating], dtype: str, key: str = "") -> LazyTensor:
    """Return numbers in memory as a tensor that is written in this dtype."""
    return LazyTensor(key, dtype, values.shape, lambda: values)


def exactly(values: NDArray[np.floating], dtype: str, key: str = "") -> LazyTensor:
    """Return a tensor as `in_dtype` does, but in float32 if the dtype would round the numbers or is of integers."""
    small = written_dtype(dtype) if is_float(dtype) else "F32"
    try:
        same = bool(np.array_equal(widened(narrowed(values, small, key), small), values))
    except BwlabError:
        same = False
    return in_dtype(values, small if same or small == "F64" else "F32", key)


def cast(tensor: LazyTensor, dtype: str | None) -> LazyTensor:
    """Return the tensor, to be written in another dtype if its numbers are floats; None keeps its own dtype."""
    if dtype is None or not is_float(tensor.dtype) or tensor.dtype == dtype:
        return tensor
    return LazyTensor(tensor.key, dtype, tensor.shape, tensor.fetch, tensor.source)


def widen_bfloat16(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return the float32 numbers whose upper 16 bits are `bits` (uint16): exact, NaN and infinity included."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def widen_e4m3(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return the float32 numbers of float8 E4M3 `bits` (uint8): 4 bits of exponent (bias 7), 3 of mantissa.

    Source: Micikevicius et al., FP8 Formats for Deep Learning (arXiv 2209.05433), table 1.
    """
    return _e4m3_values()[bits.astype(np.uint8)]


def widen_e5m2(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return the float32 numbers of float8 E5M2 `bits` (uint8), the upper half of a float16; infinity and NaN included.

    Source: Micikevicius et al., FP8 Formats for Deep Learning (arXiv 2209.05433), table 1.
    """
    return (bits.astype(np.uint16) << np.uint16(8)).view(np.float16).astype(np.float32)


@cache
def _e4m3_values() -> NDArray[np.float32]:
    """Return every number of the format by its bits, `(256,)`."""
    bits = np.arange(256)
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    size[(bits & 127) == 127] = np.nan  # The only pattern that is not a number.
    return np.where(bits < 128, size, -size).astype(np.float32)
