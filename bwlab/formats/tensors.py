"""A tensor of a file that is read when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bwlab.errors import BwlabError

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
# Bits of float16.
POSITIVE_INFINITY, NEGATIVE_INFINITY = 0x7C00, 0xFC00


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """Where a tensor comes from, and what it is, without its numbers.

    Attributes:
        key: its name in the file, for messages.
        dtype: as safetensors files name it: `"F32"`, `"BF16"`, `"F8_E4M3"`, ...
        shape: of the numbers; `()` of a single one.
        fetch: reads the numbers in their own dtype; those that numpy lacks (bfloat16, float8) as float32, exactly.
        source: the file, for messages.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    fetch: Callable[[], NDArray[np.generic]]
    source: str = ""

    @classmethod
    def of(cls, values: NDArray[np.generic], key: str = "", source: str = "") -> LazyTensor:
        """One whose numbers are in memory already."""
        return cls(key, DTYPES.get(values.dtype.name, values.dtype.name), values.shape, lambda: values, source)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def read(self) -> NDArray[np.generic]:
        """The numbers in their own dtype; bfloat16 and float8 as the same numbers in float32."""
        return self.fetch().reshape(self.shape)

    def numbers(self, dtype: DTypeLike | None = np.float64) -> Numbers:
        """The numbers as floats of this dtype; None: of their own, or float64 where they are whole numbers.

        Raises:
            BwlabError: one is NaN or infinite.
        """
        found = self.read()
        if dtype is None:
            dtype = found.dtype if found.dtype.kind == "f" else np.float64
        values: Numbers = found.astype(dtype, copy=False)
        # Widening makes nothing infinite: half precision is looked through fastest as it is.
        if not _all_finite(found if np.can_cast(found.dtype, values.dtype) else values):
            bad = int(values.size - np.count_nonzero(np.isfinite(values)))
            found_bad = f"{bad} of the {values.size} numbers of {self.key} are NaN or infinite"
            raise BwlabError(f"reading adapter {self.source}", found_bad, "Its training failed; train it again")
        return values

    def reshaped(self, shape: tuple[int, ...]) -> LazyTensor:
        """The same numbers in another shape of as many."""
        return LazyTensor(self.key, self.dtype, shape, self.fetch, self.source)


def _all_finite(values: NDArray[np.generic]) -> bool:
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    # Beyond the largest float16 there are only infinity and NaN: of either sign, the bits are in the numbers' order.
    positive, negative = (values.view(bits).max(initial=0) for bits in (np.int16, np.uint16))
    return bool(positive < POSITIVE_INFINITY and negative < NEGATIVE_INFINITY)
