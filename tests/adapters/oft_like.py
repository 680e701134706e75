"""A small multiplicative type, `W -> R W` with R orthogonal and block-diagonal, as OFT (arXiv 2306.07280) has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from bwlab.adapters.layer import BaseAwareLayer, BaseLayer, check_rank_and_alpha, refuse_unknown_options
from bwlab.adapters.types import AdapterType


class OftLike(BaseAwareLayer):
    """One block R = (I + Q)(I - Q)^-1 of the whole width, Q = P - P^T; the rank is not used.

    `forward` turns the base output, which is cheaper than the dense delta of the default.
    """

    def __init__(self, layer: BaseLayer, rank: int, block: Tensor) -> None:
        super().__init__()
        self.rank, self.alpha = rank, 1.0
        self.weight_shape = tuple(layer.weight.shape)
        self.block = nn.Parameter(block)

    @classmethod
    def create(
        cls, layer: BaseLayer, rank: int, alpha: float, generator: torch.Generator | None, **options: object
    ) -> Self:
        refuse_unknown_options("oft-like", options)
        check_rank_and_alpha(rank, alpha)
        return cls(layer, rank, torch.zeros(layer.weight.shape[0], layer.weight.shape[0]))

    @classmethod
    def from_tensors(cls, layer: BaseLayer, tensors: Mapping[str, Tensor]) -> Self:
        return cls(layer, 1, tensors["turn"].detach().clone())

    def tensors(self) -> dict[str, Tensor]:
        return {"turn": self.block.detach()}

    def forward(self, x: Tensor, base_output: Tensor, base: BaseLayer) -> Tensor:  # type: ignore[override]
        turned = self.base_part(base_output, base).to(self.block.dtype)
        change = self.turn() - torch.eye(len(self.block), dtype=self.block.dtype)
        if isinstance(base, nn.Linear):
            return turned @ change.T
        return torch.einsum("oi,bihw->bohw", change, turned)

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        weight = self.require_base_weight(base_weight)
        return (self.turn() @ weight.flatten(1) - weight.flatten(1)).reshape(weight.shape)

    def turn(self) -> Tensor:
        """R `(out, out)`; solved in float32 at least, as CPUs solve nothing in half precision."""
        wide = self.block.to(torch.promote_types(self.block.dtype, torch.float32))
        skew = wide - wide.T
        eye = torch.eye(len(wide), dtype=wide.dtype)
        solved: Tensor = torch.linalg.solve(eye - skew, eye + skew)
        return solved.to(self.block.dtype)


class DenseOftLike(OftLike):
    """The same through the default `forward`, which multiplies by the dense delta."""

    forward = BaseAwareLayer.forward


OFT_LIKE = AdapterType(
    name="oft-like",
    summary="turns the output of every layer",
    leaves=("turn",),
    needs_base_weight=True,
    load=lambda: OftLike,
    targets=lambda path, kind: True,
)
DENSE_OFT_LIKE = replace(OFT_LIKE, load=lambda: DenseOftLike)
