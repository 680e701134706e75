"""Numbers as the bytes of a file: the dtypes of safetensors files that bwlab writes, bfloat16 included."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bwlab.errors import BwlabError
from bwlab.formats.tensors import LazyTensor

# As safetensors names them. The 8-bit floats are read but not written: few tools read them.
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_OTHERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
_WIDER = {"F8_E4M3": "F16", "F8_E5M2": "F16"}

SIZES = {name: np.dtype(code).itemsize for name, code in {**_FLOATS, **_OTHERS}.items()} | {"BF16": 2}

DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


def is_float(dtype: str) -> bool:
    """Whether safetensors' name of a dtype, `"F16"`, is that of floats."""
    return dtype in _FLOATS or dtype == "BF16" or dtype in _WIDER


def written_dtype(dtype: str) -> str:
    """The dtype that a tensor of this one is written in: itself, or one that holds all its numbers.

    >>> written_dtype("F8_E4M3"), written_dtype("BF16")
    ('F16', 'BF16')
    """
    return _WIDER.get(dtype, dtype)


def encoded(tensor: LazyTensor) -> bytes:
    """The bytes of a tensor in its `written_dtype`, rounded to the nearest where it holds more digits.

    Raises:
        BwlabError: a number is NaN or infinite, or too large for the dtype.
    """
    dtype = written_dtype(tensor.dtype)
    if not is_float(dtype):
        return tensor.read().astype(_OTHERS[dtype], copy=False).tobytes()
    values = tensor.numbers(np.float64 if dtype == "F64" else np.float32)
    return narrowed(values, dtype, tensor.key).tobytes()


def narrowed(values: NDArray[np.floating], dtype: str, key: str = "") -> NDArray[np.generic]:
    """Finite numbers in a float dtype, as files keep them (bfloat16 as uint16); `BwlabError` where one overflows."""
    with np.errstate(over="ignore"):
        bits = round_bfloat16(values) if dtype == "BF16" else values.astype(_FLOATS[dtype], copy=False)
    if not np.isfinite(widened(bits, dtype)).all():
        largest = float(np.abs(values).max())
        raise BwlabError(
            f"writing {key} as {dtype}", f"its largest number, {largest:g}, does not fit", "Write it as fp32 or bf16"
        )
    return bits


def widened(bits: NDArray[np.generic], dtype: str) -> NDArray[np.floating]:
    """What `narrowed` made, as numbers again."""
    from bwlab.formats.small_floats import widen_bfloat16

    wide: NDArray[np.floating] = widen_bfloat16(bits) if dtype == "BF16" else bits.astype(bits.dtype, copy=False)
    return wide


def round_bfloat16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The nearest bfloat16 to each finite number, ties to even, as its 16 bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounding = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + rounding) >> np.uint32(16)).astype(np.uint16)


def size_in_bytes(tensor: LazyTensor) -> int:
    """Of the tensor in a file."""
    return math.prod(tensor.shape) * SIZES[written_dtype(tensor.dtype)]


def in_dtype(values: NDArray[np.floating], dtype: str, key: str = "") -> LazyTensor:
    """Numbers in memory as a tensor that is written in this dtype."""
    return LazyTensor(key, dtype, values.shape, lambda: values)


def exactly(values: NDArray[np.floating], dtype: str, key: str = "") -> LazyTensor:
    """Like `in_dtype`, but in float32 where the dtype would round the numbers."""
    small = written_dtype(dtype)
    try:
        same = bool(np.array_equal(widened(narrowed(values, small, key), small), values))
    except BwlabError:
        same = False
    return in_dtype(values, small if same or small == "F64" else "F32", key)


def cast(tensor: LazyTensor, dtype: str | None) -> LazyTensor:
    """The tensor, to be written in another dtype if its numbers are floats; None: in its own."""
    if dtype is None or not is_float(tensor.dtype) or tensor.dtype == dtype:
        return tensor
    return LazyTensor(tensor.key, dtype, tensor.shape, tensor.fetch, tensor.source)
