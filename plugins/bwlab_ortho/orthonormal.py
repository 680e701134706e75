"""Orthonormal columns from any matrix, exact in float32, differentiable, and cheap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Deviation from orthonormal after one pass: a second pass reduces a smaller one to rounding; dependent columns leave
# a larger one.
WELL_ENOUGH = 0.05


def orthonormal(matrix: Tensor, avoid: Tensor | None = None) -> Tensor:
    """Return the Q factor `(d, r)` of `matrix`, or of its part outside the span of `avoid`: Q^T Q = I, avoid^T Q = 0.

    Computed in float64 and rounded once, so in float32 both hold to 1e-6, for condition numbers up to 1e7. It is
    CholeskyQR2 (Yamamoto et al., Roundoff error analysis of the CholeskyQR2 algorithm, ETNA 44, 2015), whose work is
    matrix products but for two r x r factors. Any matrix of full rank is a valid parameter, so optimisers with momentum
    work as on any other.

    Args:
        matrix: `(d, r)` of full column rank, r <= d; where it is not, or nearly not, the result is NaN.
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
    Only Q, which the next operation keeps anyway, and the r x r inverse of R are kept.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, avoid: Tensor | None) -> Tensor:
        wide = matrix.double()
        if avoid is not None:
            # The second pass removes what the rounding of `avoid` left of the first.
            wide = _outside(_outside(wide, avoid.to(wide)), avoid.to(wide))
        wide, first, _ = _cholesky_pass(wide)
        wide, second, error = _cholesky_pass(wide)
        # Asking whether it succeeded would make the host wait for the device; NaN shows a failure as well.
        basis: Tensor = torch.where(error < WELL_ENOUGH, wide, torch.nan).to(matrix.dtype)
        inverse = first @ second
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
        back = tangent @ inverse.to(dtype).T
        return (back if avoid is None else _outside(back, avoid.to(dtype))).to(gradient.dtype), None


def _cholesky_pass(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q `(d, r)`, the inverse of R `(r, r)`, and the deviation of the given columns from orthonormal ones."""
    gram = matrix.T @ matrix
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    lower, _ = torch.linalg.cholesky_ex(gram)
    inverse = torch.linalg.solve_triangular(lower, eye, upper=False).T
    # Three times as fast as solving for the whole of Q.
    return matrix @ inverse, inverse, (gram - eye).abs().amax()


def _outside(matrix: Tensor, avoid: Tensor) -> Tensor:
    """Return `matrix` without its part in the span of `avoid`."""
    outside: Tensor = torch.addmm(matrix, avoid, avoid.T @ matrix, alpha=-1)
    return outside
