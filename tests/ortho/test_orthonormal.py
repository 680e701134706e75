"""Orthonormal columns: exact, differentiable, and clear of a subspace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bwlab_ortho.orthonormal import orthonormal


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def basis(rows: int, columns: int) -> Tensor:
    q: Tensor = torch.linalg.qr(random(rows, columns, seed=5))[0]
    return q


def test_it_is_the_q_of_a_qr_factorisation() -> None:
    matrix = random(13, 5)
    q, r = torch.linalg.qr(matrix)
    torch.testing.assert_close(orthonormal(matrix), q * r.diagonal().sign(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("columns", [0, 3])
def test_gradients_are_those_of_finite_differences(columns: int) -> None:
    matrix = random(11, 3).requires_grad_()
    avoid = basis(11, columns) if columns else None
    assert torch.autograd.gradcheck(lambda m: orthonormal(m, avoid), (matrix,))


@pytest.mark.parametrize(("rows", "rank"), [(17, 17), (1031, 16), (11521, 23)])
def test_float32_is_exact_also_for_badly_conditioned_matrices(rows: int, rank: int) -> None:
    matrix = random(rows, rank, dtype=torch.float32) * torch.logspace(0, -3, rank)
    matrix[:, 1:] += 30 * matrix[:, :1]
    q = orthonormal(matrix)
    assert q.dtype == torch.float32
    assert (q.T @ q - torch.eye(rank)).abs().max() < 2e-6
    avoid = basis(rows, 7).float() if rows > rank + 7 else None
    if avoid is not None:
        assert (avoid.T @ orthonormal(matrix, avoid)).abs().max() < 1e-6


def test_the_complement_is_exact_for_a_basis_rounded_to_float32() -> None:
    avoid = basis(211, 19).float()
    q = orthonormal(random(211, 5), avoid)
    assert (avoid.double().T @ q).abs().max() < 1e-12
    assert (q.T @ q - torch.eye(5)).abs().max() < 1e-12


def test_dependent_columns_are_nan_and_not_silently_wrong() -> None:
    assert bool(orthonormal(torch.ones(7, 2)).isnan().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype(dtype: torch.dtype) -> None:
    matrix = random(101, 4).to(dtype).requires_grad_()
    q = orthonormal(matrix)
    q.sum().backward()
    assert q.dtype == dtype
    assert matrix.grad is not None
    assert matrix.grad.dtype == dtype
    assert (q.float().T @ q.float() - torch.eye(4)).abs().max() < 2e-2
