"""Widening the floats that numpy has no name for: bfloat16 and the two 8-bit ones. Every number of theirs is exact."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray


def widen_bfloat16(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """The float32 numbers whose upper 16 bits are `bits` (uint16): exact, NaN and infinity included."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def widen_e4m3(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """The float32 numbers of float8 E4M3 `bits` (uint8): 4 bits of exponent (bias 7), 3 of mantissa, no infinities.

    Source: Micikevicius et al., FP8 Formats for Deep Learning (arXiv 2209.05433), table 1.
    """
    return _e4m3_values()[bits.astype(np.uint8)]


def widen_e5m2(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """The float32 numbers of float8 E5M2 `bits` (uint8), the upper half of a float16; infinity and NaN included.

    Source: Micikevicius et al., FP8 Formats for Deep Learning (arXiv 2209.05433), table 1.
    """
    return (bits.astype(np.uint16) << np.uint16(8)).view(np.float16).astype(np.float32)


@cache
def _e4m3_values() -> NDArray[np.float32]:
    """Every number of the format by its bits, `(256,)`."""
    bits = np.arange(256)
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    size[(bits & 127) == 127] = np.nan  # The one pattern that is no number.
    return np.where(bits < 128, size, -size).astype(np.float32)
