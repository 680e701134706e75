"""Convolutions to few channels against PyTorch's own, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bwlab.adapters.narrow_conv import NarrowConv, Padding

CASES = [((3, 3), (1, 1)), ((3, 3), (0, 2)), ((1, 1), (0, 0)), ((5, 2), (3, 1)), ((3, 1), (1, 0))]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("kernel", "padding"), CASES)
def test_values_and_gradients(kernel: tuple[int, int], padding: Padding) -> None:
    x, weight = draw(2, 7, 11, 5).requires_grad_(), draw(3, 7, *kernel, seed=1).requires_grad_()
    expected = F.conv2d(x, weight, padding=padding)
    found: Tensor = NarrowConv.apply(x, weight, padding)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradient = draw(*expected.shape, seed=2)
    for one, other in zip(
        torch.autograd.grad(found, (x, weight), gradient),
        torch.autograd.grad(expected, (x, weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    x, weight = draw(2, 3, 5, 4).requires_grad_(), draw(2, 3, 3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, weight: NarrowConv.apply(x, weight, (1, 0)), (x, weight))


def test_bfloat16_is_summed_in_single_precision() -> None:
    x, weight = draw(2, 31, 11, 5), draw(3, 31, 3, 3, seed=1)
    expected = F.conv2d(x, weight, padding=1)
    found: Tensor = NarrowConv.apply(x.bfloat16(), weight.bfloat16(), (1, 1))
    assert found.dtype == torch.bfloat16
    assert float((found.double() - expected).abs().max() / expected.abs().max()) < 0.01


def test_what_is_frozen_gets_no_gradient() -> None:
    x, weight = draw(2, 3, 5, 4), draw(2, 3, 3, 3, seed=1).requires_grad_()
    NarrowConv.apply(x, weight, (1, 1)).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
