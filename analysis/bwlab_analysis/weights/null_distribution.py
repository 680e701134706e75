"""The null distribution of each conflict measure: its values for two random adapters, by exact formulas.

A random adapter is one of the same shapes and singular values whose singular vectors are uniformly random (Haar).
`pair_measures.py` puts these numbers beside each measure. Random adapters that are drawn and run in a base model are in
`bwlab_analysis/activations/random_adapters.py`.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product

import numpy as np

from bwlab.linalg.pair import FactorPair, Overlap, PartRanks

PAIRINGS = (((0, 2), (1, 3)), ((0, 3), (1, 2)), ((0, 1), (2, 3)))
"""The three ways to pair i, j, k, l: the identity, the swap, and what maps i = j to k = l."""


def cosine_variance(shape: tuple[int, int]) -> float:
    """Return the variance of the cosine of two independent random matrices `(m, n)`, `1 / (m n)`; the mean is 0.

    With a = sum_i s_i u_i v_i^T and b = sum_j t_j p_j q_j^T, <a, b> = sum_ij s_i t_j (u_i . p_j)(v_i . q_j). Products
    of different terms have mean 0, as flipping the sign of one u_i changes nothing in law; E (u_i . p_j)^2 = 1/m and
    E (v_i . q_j)^2 = 1/n. The rest is sum_ij s_i^2 t_j^2 / (m n) = |a|^2 |b|^2 / (m n), whatever the ranks.
    """
    return 1.0 / (shape[0] * shape[1])


def inner_variance_given_inputs(pair: FactorPair) -> float:
    """Return the variance of `<a, b>` for given row spaces and random column sides.

    This is the scale of two adapters that share their initialisation. By the argument of `cosine_variance` with the
    v_i . q_j kept it is `sum_ij s_i^2 t_j^2 (v_i . q_j)^2 / m = |a b^T|_F^2 / m`, by traces of r x r products.
    """
    rows = pair.cross_grams.down
    square = float(np.vdot(pair.a.grams.up @ rows, rows @ pair.b.grams.up))
    return max(square, 0.0) / pair.shape[0]


def overlap_variance(overlap: Overlap) -> float:
    """Return the variance of `|U_a^T U_b|_F^2` of two random subspaces of R^d with ranks p, q; the mean is `p q / d`.

    `2 p q (d - p)(d - q) / (d^2 (d - 1)(d + 2))`: the variance of trace(P Q) for a fixed projection P and a uniformly
    random one Q, from the second moments of Haar-orthogonal matrices (Collins and Sniady 2006, arXiv math-ph/0402073).
    It holds if one of them is a Kronecker product, too. If both are, the parts are taken to be random, each for itself.
    """
    p, q, d = overlap.rank_a, overlap.rank_b, overlap.dimension
    if overlap.parts_a and overlap.parts_b:
        mean = _rank(overlap.parts_a) * _rank(overlap.parts_b) / d
        relative = max(0.0, _kronecker_moment(overlap.parts_a, overlap.parts_b) / mean**2 - 1.0)
        # Rounding may count the ranks of parts and of their product differently.
        return relative * (p * q / d) ** 2
    return 0.0 if d == 1 else 2.0 * p * q * (d - p) * (d - q) / (d**2 * (d - 1) * (d + 2))


def _rank(parts: PartRanks) -> int:
    return math.prod(rank for _, rank in parts)


def _kronecker_moment(a: PartRanks, b: PartRanks) -> float:
    """Return the mean of `trace(P Q)^2` of random projections P = P_1 x P_2, Q = Q_1 x Q_2, on parts of any sizes.

    The mean of P_1 x P_1 is a sum of three maps of R^d x R^d, the Brauer algebra's: of the four indices i, j (rows) and
    k, l (columns) each has two pairs equal (`PAIRINGS`). `trace(P Q)^2 = trace((P x P)(Q x Q))` then asks how many
    (i, j, k, l) there are whose digits, by the parts of P, are equal as one choice says, and by those of Q as another.
    """
    (outer, _), (inner_a, _) = a
    inner_b = b[1][0]
    weights = [[_pairing_weights(*part) for part in parts] for parts in (a, b)]
    return math.fsum(
        math.prod(weights[place // 2][place % 2][pairing] for place, pairing in enumerate(chosen))
        * _tuples(outer * inner_a, inner_a, inner_b, *chosen)
        for chosen in product(range(len(PAIRINGS)), repeat=4)
    )


def _pairing_weights(d: int, p: int) -> tuple[float, float, float]:
    """Return the weights of `PAIRINGS` in the mean of P x P, P of rank p in R^d, from its traces p^2 and p."""
    if d == 1:
        return 1.0, 0.0, 0.0
    alone = (p**2 * (d + 1) - 2 * p) / (d * (d - 1) * (d + 2))
    rest = (p - alone * d) / (d * (d + 1))
    return alone, rest, rest


@cache
def _tuples(size: int, inner_a: int, inner_b: int, x1: int, x2: int, y1: int, y2: int) -> int:
    """Return how many (i, j, k, l) of 0..size-1 are paired as all four pairings say.

    x1 is for the digits `// inner_a`, x2 for `% inner_a`; y1 and y2 for those of b.

    Common factors of the outer digits, and of the inner ones, are paired separately; few indices are left.
    """
    outer, inner = math.gcd(size // inner_a, size // inner_b), math.gcd(inner_a, inner_b)
    a, b = inner_a // inner, inner_b // inner
    # By symmetry x1 may be the first pairing, and x2 the first or the second: then i and j determine k and l.
    names = {x1: 0, x2: 1} if x1 != x2 else {x1: 0}
    for pairing in range(len(PAIRINGS)):
        names.setdefault(pairing, len(names))
    index = np.arange(size // (outer * inner))
    first, second = index[:, None], index[None, :]
    indices = [first, second, first, second]
    if x1 != x2:
        indices[2:] = first // a * a + second % a, second // a * a + first % a
    fits = np.ones((len(index), len(index)), np.bool_)
    for pairing, digits in ((y1, [number // b for number in indices]), (y2, [number % b for number in indices])):
        for left, right in PAIRINGS[names[pairing]]:
            fits &= digits[left] == digits[right]
    return int(np.count_nonzero(fits)) * int(outer ** (1 + (x1 == y1))) * int(inner ** (1 + (x2 == y2)))


def least_angle(overlap: Overlap) -> float:
    """Return the smallest principal angle to expect of two random subspaces, in radians: the limit for large ranks.

    `cos^2 = x + y - 2 x y + 2 sqrt(x y (1 - x)(1 - y))`, x = p / d, y = q / d: the upper edge of the spectrum of the
    product of two free projections (Wachter 1980, The limiting empirical measure of multiple discriminant ratios).
    """
    x, y = overlap.rank_a / overlap.dimension, overlap.rank_b / overlap.dimension
    if x + y >= 1.0:
        return 0.0
    return math.acos(math.sqrt(x + y - 2 * x * y + 2 * math.sqrt(x * y * (1 - x) * (1 - y))))


def sign_conflict_sd(entries: float) -> float:
    """Return the standard deviation of the sign conflict of two random matrices of this size; the mean is 0.5.

    `0.5 / sqrt(entries)` for every rank: flipping a row or a column of one matrix changes nothing in law, so the signs'
    products at different entries are uncorrelated.
    """
    return 0.5 / math.sqrt(entries)
