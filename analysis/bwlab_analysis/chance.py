"""What two random adapters give, exactly: the scale beside every conflict number.

A random adapter here is one of the same shapes and singular values whose singular vectors are uniformly random (Haar).
"""

from __future__ import annotations

import math

import numpy as np

from bwlab.lowrank import FactoredMatrix, Overlap


def cosine_variance(shape: tuple[int, int]) -> float:
    """The variance of the cosine of two independent random matrices of `shape = (m, n)`: `1 / (m n)`; the mean is 0.

    With a = sum_i s_i u_i v_i^T and b = sum_j t_j p_j q_j^T, <a, b> = sum_ij s_i t_j (u_i . p_j)(v_i . q_j). Products
    of different terms have mean 0, as flipping the sign of one u_i changes nothing in law; E (u_i . p_j)^2 = 1/m and
    E (v_i . q_j)^2 = 1/n. What is left is sum_ij s_i^2 t_j^2 / (m n) = |a|^2 |b|^2 / (m n), whatever the ranks.
    """
    return 1.0 / (shape[0] * shape[1])


def inner_variance_given_inputs(a: FactoredMatrix, b: FactoredMatrix) -> float:
    """The variance of `<a, b>` if the row spaces are as they are and only the column sides are random.

    This is the scale of two adapters that share their initialisation. By the argument of `cosine_variance` with the
    v_i . q_j kept it is `sum_ij s_i^2 t_j^2 (v_i . q_j)^2 / m = |a b^T|_F^2 / m`, by traces of r x r products.
    """
    rows = a.crossed(b)[1]
    square = float(np.vdot(a.up_gram @ rows, rows @ b.up_gram))
    return max(square, 0.0) / a.shape[0]


def overlap_variance(overlap: Overlap) -> float:
    """The variance of `|U_a^T U_b|_F^2` of two random subspaces of R^d with ranks p, q; the mean is `p q / d`.

    `2 p q (d - p)(d - q) / (d^2 (d - 1)(d + 2))`: the variance of trace(P Q) for a fixed projection P and a uniformly
    random one Q, from the second moments of Haar-orthogonal matrices (Collins and Sniady 2006, arXiv math-ph/0402073).
    """
    p, q, d = overlap.rank_a, overlap.rank_b, overlap.dimension
    return 0.0 if d == 1 else 2.0 * p * q * (d - p) * (d - q) / (d**2 * (d - 1) * (d + 2))


def least_angle(overlap: Overlap) -> float:
    """About the smallest principal angle of two random subspaces, in radians: the limit for large ranks.

    `cos^2 = x + y - 2 x y + 2 sqrt(x y (1 - x)(1 - y))`, x = p / d, y = q / d: the upper edge of the spectrum of the
    product of two free projections (Wachter 1980, The limiting empirical measure of multiple discriminant ratios).
    """
    x, y = overlap.rank_a / overlap.dimension, overlap.rank_b / overlap.dimension
    if x + y >= 1.0:
        return 0.0
    return math.acos(math.sqrt(x + y - 2 * x * y + 2 * math.sqrt(x * y * (1 - x) * (1 - y))))


def sign_conflict_sd(entries: float) -> float:
    """The standard deviation of the sign conflict of two random matrices of so many entries; the mean is 0.5.

    `0.5 / sqrt(entries)` for every rank: flipping a row or a column of one matrix changes nothing in law, so the signs'
    products at different entries are uncorrelated.
    """
    return 0.5 / math.sqrt(entries)
