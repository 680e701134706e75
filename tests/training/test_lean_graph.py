"""Gradients of frozen layers from less than PyTorch keeps, against PyTorch's own in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bwlab.training.lean_graph import ConvGeometry, FrozenConv, Geglu, SiluOfNorm, conv_input_gradient

# (input shape, weight shape, geometry): the first three have so few positions that a matrix product does it.
CONVS: tuple[tuple[tuple[int, ...], tuple[int, ...], ConvGeometry], ...] = (
    ((2, 31, 2, 3), (7, 31, 3, 3), ((1, 1), (1, 1), (1, 1), 1)),
    ((2, 31, 5, 3), (7, 31, 3, 3), ((2, 2), (1, 1), (1, 1), 1)),
    ((2, 61, 7, 5), (3, 61, 3, 2), ((2, 3), (2, 1), (2, 1), 1)),
    ((2, 5, 11, 13), (7, 5, 3, 3), ((1, 1), (1, 1), (1, 1), 1)),
    ((2, 5, 11, 13), (7, 5, 1, 1), ((2, 2), (0, 0), (1, 1), 1)),
    ((2, 6, 11, 13), (4, 3, 3, 3), ((1, 2), (1, 0), (1, 2), 2)),
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("shape", "weight_shape", "geometry"), CONVS)
def test_the_gradient_of_a_convolutions_input(
    shape: tuple[int, ...], weight_shape: tuple[int, ...], geometry: ConvGeometry
) -> None:
    x, weight = draw(*shape).requires_grad_(), draw(*weight_shape, seed=1)
    output = F.conv2d(x, weight, None, *geometry)
    gradient = draw(*output.shape, seed=2)
    (expected,) = torch.autograd.grad(output, x, gradient)
    found = conv_input_gradient(gradient, weight, x.shape, geometry)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradcheck_of_a_frozen_convolution() -> None:
    weight, geometry = draw(3, 5, 3, 3, seed=1), CONVS[3][2]

    def run(x: Tensor) -> Tensor:
        found: Tensor = FrozenConv.apply(x, F.conv2d(x, weight, None, *geometry).detach(), weight, geometry)
        return found

    assert torch.autograd.gradcheck(run, draw(2, 5, 3, 2).requires_grad_())


def test_gradcheck_of_silu_after_a_norm() -> None:
    weight, bias = draw(6, seed=1), draw(6, seed=2)

    def run(x: Tensor) -> Tensor:
        normed = F.group_norm(x, 3, weight, bias, 1e-5)
        found: Tensor = SiluOfNorm.apply(normed, F.silu(normed).detach(), x, weight, bias, (3, 1e-5))
        return found

    assert torch.autograd.gradcheck(run, draw(2, 6, 3, 5).requires_grad_())


def test_gradcheck_of_geglu() -> None:
    def run(projected: Tensor) -> Tensor:
        value, gate = projected.chunk(2, dim=-1)
        found: Tensor = Geglu.apply(projected, (value * F.gelu(gate)).detach())
        return found

    assert torch.autograd.gradcheck(run, draw(2, 3, 10).requires_grad_())


def test_outputs_may_be_changed_in_place() -> None:
    x = draw(2, 3, 10).requires_grad_()
    value, gate = x.chunk(2, dim=-1)
    output: Tensor = Geglu.apply(x, (value * F.gelu(gate)).detach())
    output += 1
    output.sum().backward()
    assert x.grad is not None
