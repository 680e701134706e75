"""The LoKr layer: `s * kron(w1, w2)`, where w1 `(a, c)` acts between groups of channels and w2 `(b, d)` in each.

Sources: KronA, Edalati et al. (arXiv 2212.10650), section 3; LyCORIS, Yeh et al. (arXiv 2309.14859), section 3.3; see
`bwlab.formats.algorithms.lokr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bwlab.adapters.lowrank import Geometry, project_down, project_down_fast, project_up
from bwlab_lycoris.layer import ProductLayer


@dataclass(frozen=True, eq=False)
class Second:
    """w2, as a whole `(b, d)` or `(b, d, k, k)`, or as a down `(r, d)`, `(r, d, k, k)` and an up `(b, r)`."""

    down: Tensor
    up: Tensor | None

    def whole(self) -> Tensor:
        """Return the matrix `(b, d * k * k)`."""
        return self.down.flatten(1) if self.up is None else self.up @ self.down.flatten(1)

    def act(self, x: Tensor, geometry: Geometry) -> Tensor:
        """Return w2's operation on x `(..., d)` or `(batch, d, h, w)`."""
        if self.up is None:
            return project_down(x, self.down, geometry)
        up = self.up if geometry is None else self.up[:, :, None, None]
        return project_up(project_down_fast(x, self.down, geometry), up)


class LokrLayer(ProductLayer):
    """A LoKr, whose delta is never multiplied out: w2 acts on each group of channels, and w1 mixes the groups.

    The mixing comes first if it leaves fewer groups.
    """

    type_name = "lokr"

    def rank_of(self, tensors: Mapping[str, Tensor], alpha: float | None) -> int:
        """Return the rank of a module of two whole matrices, which LyCORIS writes as its alpha; else the full rank."""
        whole = alpha is not None and alpha >= 1 and alpha.is_integer()
        return int(alpha) if whole and alpha is not None else min(self.weight_shape[:2])

    def part(self, x: Tensor) -> Tensor:
        """Return `s * kron(w1, w2)` applied to x, of the shape of the layer's output."""
        mix, second = self.mixing(), self.second()
        groups_out, groups_in = mix.shape
        if self._geometry is None:
            grouped = x.unflatten(-1, (groups_in, -1))
            if groups_out < groups_in:
                return second.act(mix @ grouped, None).flatten(-2) * self.scale
            return (mix @ second.act(grouped, None)).flatten(-2) * self.scale
        if groups_out < groups_in:
            x = _mixed(mix, x)
        grouped = x.reshape(-1, x.shape[1] // min(groups_out, groups_in), *x.shape[2:])
        acted = second.act(grouped, self._geometry)
        acted = acted.reshape(len(x), -1, *acted.shape[2:])
        return (acted if groups_out < groups_in else _mixed(mix, acted)) * self.scale

    def change(self) -> Tensor:
        """Return the product, of shape `weight_shape`."""
        return (torch.kron(self.mixing(), self.second().whole()) * self.scale).reshape(self.weight_shape)

    def mixing(self) -> Tensor:
        """Return w1 `(a, c)`."""
        if "lokr_w1" in self.weights:
            return self.leaf("lokr_w1")
        return self.leaf("lokr_w1_a") @ self.leaf("lokr_w1_b")

    def second(self) -> Second:
        """Return w2, with its kernel in a convolution."""
        kernel = self.weight_shape[2:]
        if "lokr_w2" in self.weights:
            whole = self.leaf("lokr_w2")
            return Second(whole.reshape(len(whole), -1, *kernel), None)
        up, down = self.leaf("lokr_w2_a"), self.leaf("lokr_w2_b")
        if "lokr_t2" in self.weights:
            return Second(torch.einsum("mnhw,nj->mjhw", self.leaf("lokr_t2"), down), up.T)
        return Second(down.reshape(len(down), -1, *kernel), up)


def _mixed(mix: Tensor, x: Tensor) -> Tensor:
    """Return x `(batch, c * n, h, w)` with its c groups of channels mixed: `(batch, a * n, h, w)`."""
    grouped = x.reshape(len(x), mix.shape[1], -1)
    return (mix @ grouped).reshape(len(x), -1, *x.shape[2:])
