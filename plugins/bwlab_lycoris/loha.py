"""The LoHa layer: `s * (up1 down1) * (up2 down2)`, the product element by element.

Source: FedPara, Hyeon-Woo et al. (arXiv 2108.06098), proposition 2; see `bwlab.formats.algorithms.loha`.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from bwlab.adapters.lowrank import add_projected_up, project_down, project_down_fast, project_up
from bwlab.formats.algorithms.algorithm import unless_larger
from bwlab_lycoris.layer import ProductLayer, recomputed

# up `(out, r)` and down `(r, in * k * k)`
Factors: TypeAlias = tuple[Tensor, Tensor]


class LohaLayer(ProductLayer):
    """A LoHa, as a low-rank product of rank r^2 where such factors are smaller than the delta, else as the delta.

    Column (i, j) of the larger up is column i of one up times column j of the other, and rows of down likewise, so both
    ways give the same numbers. The delta is not kept for the backward pass but computed again.
    """

    type_name = "loha"

    def is_low_rank(self) -> bool:
        """Return whether the factors of rank r^2 are used."""
        return unless_larger(self.rank**2, self.weight_shape) is not None

    def part(self, x: Tensor) -> Tensor:
        """Return the layer's operation with `change` as its weight."""
        if self.is_low_rank():
            up, down = self._wide_factors()
            return project_up(project_down_fast(x, down, self._geometry), up) * self.scale
        return recomputed(lambda given: project_down(given, self.change(), self._geometry), x)

    def add_to(self, total: Tensor, x: Tensor, base_output: Tensor, scale: float) -> Tensor:
        """Return `total` plus `scale` times the result of `forward`, in one pass over `total` if it is low-rank."""
        if not self.is_low_rank():
            return super().add_to(total, x, base_output, scale)
        up, down = self._wide_factors()
        return add_projected_up(total, project_down_fast(x, down, self._geometry), up, scale * self.scale)

    def change(self) -> Tensor:
        """Return the product, of shape `weight_shape`."""
        (up1, down1), (up2, down2) = self._factors("1"), self._factors("2")
        return ((up1 @ down1) * (up2 @ down2) * self.scale).reshape(self.weight_shape)

    def _wide_factors(self) -> Factors:
        """Return up and down of rank r^2, in the shapes of a convolution for one, without the scale."""
        (up1, down1), (up2, down2) = self._factors("1"), self._factors("2")
        up = (up1[:, :, None] * up2[:, None, :]).flatten(1)
        down = (down1[:, None, :] * down2[None, :, :]).flatten(0, 1)
        out, *inner = self.weight_shape
        return up.reshape(out, -1, *(1 for _ in inner[1:])), down.reshape(-1, *inner)

    def _factors(self, number: str) -> Factors:
        a, b = self.leaf(f"hada_w{number}_a"), self.leaf(f"hada_w{number}_b")
        core = f"hada_t{number}"
        if core not in self.weights:
            return a, b
        return a.T, torch.einsum("mnhw,nj->mjhw", self.leaf(core), b).flatten(1)
