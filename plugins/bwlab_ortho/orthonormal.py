"""Orthonormal columns from any matrix, exact in float32, differentiable, and cheap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def orthonormal(matrix: Tensor, avoid: Tensor | None = None) -> Tensor:
    """The Q factor `(d, r)` of `matrix`, or of its part outside the span of `avoid`: Q^T Q = I, avoid^T Q = 0.

    Computed in float64 and rounded once, so in float32 both hold to 1e-6 at most, however the matrix came about. It is
    CholeskyQR (Yamamoto et al., Roundoff error analysis of the CholeskyQR2 algorithm, ETNA 44, 2015), whose error grows
    with the square of the condition number: float64 leaves room for 1e4. Any matrix is a valid parameter, so optimisers
    with momentum work as on any other.

    Args:
        matrix: `(d, r)` of full column rank, r <= d; otherwise the result is NaN.
        avoid: orthonormal columns `(d, k)`, k + r <= d; float32 is enough.

    Returns:
        A tensor of the matrix's shape, dtype and device.
    """
    # Apple's GPUs have no float64; the factor is small enough to go around by the CPU.
    near = matrix.cpu() if matrix.device.type == "mps" else matrix
    basis: Tensor = _ThinQR.apply(near, avoid)
    return basis.to(matrix.device)


class _ThinQR(torch.autograd.Function):
    """Q of the thin QR factorisation with a positive diagonal of R, from a Cholesky factor of the Gram matrix.

    Backward: `(G + Q copyltu(-G^T Q)) R^-T`, where copyltu mirrors the lower triangle to the upper one
    (Walter and Lehmann, Algorithmic differentiation of linear algebra functions, 2010, QR decomposition, tall case).
    Only Q, which the next operation keeps anyway, and the r x r inverse of R^T are kept.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, avoid: Tensor | None) -> Tensor:
        wide = matrix.double()
        if avoid is not None:
            # The second pass removes what the rounding of `avoid` left of the first.
            wide = _outside(_outside(wide, avoid.to(wide)), avoid.to(wide))
        # cholesky() would wait for the device to learn of a failure; a failure shows as NaN instead.
        lower, failed = torch.linalg.cholesky_ex(wide.T @ wide)
        lower = torch.where(failed == 0, lower, torch.nan)
        # Thrice as fast as solving for the whole basis.
        eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
        basis = (wide @ inverse.T).to(matrix.dtype)
        ctx.save_for_backward(basis, inverse, avoid)
        return basis

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        basis, inverse, avoid = ctx.saved_tensors
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        wide, basis = gradient.to(dtype), basis.to(dtype)
        below = (wide.T @ basis).tril_()
        tangent = torch.addmm(wide, basis, below + below.tril(-1).T, alpha=-1)
        back = tangent @ inverse.to(dtype)
        return (back if avoid is None else _outside(back, avoid.to(dtype))).to(gradient.dtype), None


def _outside(matrix: Tensor, avoid: Tensor) -> Tensor:
    """`matrix` without its part in the span of `avoid`."""
    return torch.addmm(matrix, avoid, avoid.T @ matrix, alpha=-1)
