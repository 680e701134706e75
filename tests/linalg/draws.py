"""Random matrices and hypothesis strategies for the tests of low-rank maths."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from bwlab.linalg.factored import FactoredMatrix

# Tolerances of norms (relative), cosines (absolute), singular values (relative) and angles (radians).
NORM, COSINE, SPECTRUM, ANGLE = 1e-6, 1e-7, 1e-5, 1e-4

PRIMES = st.sampled_from([1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37])
RANKS = st.sampled_from([1, 2, 3, 5, 7, 17, 19, 41])
SEEDS = st.integers(0, 2**32 - 1)


def factored(seed: int, out: int, rank: int, inner: int, scale: float = 1.0) -> FactoredMatrix:
    draw = np.random.default_rng(seed)
    return FactoredMatrix(scale * draw.standard_normal((out, rank)), draw.standard_normal((rank, inner)))
