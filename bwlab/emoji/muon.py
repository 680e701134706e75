"""Muon: momentum whose every update is a matrix with singular values near 1 (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration that takes singular values to 0.7..1.2 in five steps.
ITERATION = (3.4445, -4.7750, 2.0315)


@torch.no_grad()
def orthogonalised(matrix: Tensor) -> Tensor:
    """Return ``(rows, columns)`` with its singular vectors and singular values near 1, by Newton and Schulz."""
    wide = matrix.bfloat16() if matrix.shape[0] <= matrix.shape[1] else matrix.bfloat16().mT
    wide = wide / (wide.norm() + 1e-7)
    first, third, fifth = ITERATION
    for _ in range(5):
        gram = wide @ wide.mT
        wide = first * wide + (third * gram + fifth * gram @ gram) @ wide
    result: Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.mT
    return result.to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for convolution kernels, each taken as a matrix of output channels x all else.

    Args:
        params: kernels ``(out, in, h, w)``.
        lr: the rate; an update's singular values are near it (more for tall matrices).
        momentum: of gradients, Nesterov's.
        weight_decay: share of a kernel that is lost per step at rate 1.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.94, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Change every kernel that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is not None:
                    self._change(kernel, kernel.grad, group["lr"], group["momentum"], group["weight_decay"])
        return None

    def _change(self, kernel: Tensor, gradient: Tensor, rate: float, momentum: float, decay: float) -> None:
        state = self.state[kernel]
        if not state:
            state["mean"] = torch.zeros_like(gradient)
        state["mean"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(state["mean"], momentum).flatten(1)
        tall = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        kernel.mul_(1 - rate * decay)
        kernel.add_(orthogonalised(update).view_as(kernel), alpha=-rate * tall)
