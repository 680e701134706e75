"""The GLoRA layer: `s * (W a1 a2 + b1 b2)` for the base weight W.

Source: One-for-All, Chavan et al. (arXiv 2306.07967), equation 10; see `bwlab.formats.algorithms.glora`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bwlab.adapters.layer import BaseLayer, dense_weight
from bwlab.adapters.lowrank import Geometry, project_down, project_down_fast, project_up
from bwlab_lycoris.kinds import GLORA
from bwlab_lycoris.layer import BaseAwareLycorisLayer, recomputed

POINTWISE: Geometry = ((1, 1), (0, 0), (1, 1))


class GloraLayer(BaseAwareLycorisLayer):
    """A GLoRA, as two low-rank products: `(W a1) a2` and `b1 b2`.

    `W a1` has r input channels, so multiplying by it costs less than by W; it is computed again for the backward pass.
    """

    type_name = "glora"

    def forward(self, x: Tensor, base_output: Tensor, base: BaseLayer) -> Tensor:  # type: ignore[override]
        """Return `s * (W a1 a2 x + b1 b2 x)`, of `base_output`'s shape."""
        a1, a2, b1, b2 = self._matrices()
        hidden = project_down_fast(x, a2, None if self._geometry is None else POINTWISE)
        mixed = recomputed(
            lambda given: project_down(given, _times_inputs(dense_weight(base).to(a1.dtype), a1), self._geometry),
            hidden,
        )
        return (mixed + project_up(project_down_fast(x, b2, self._geometry), b1)) * self.scale

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return the change of the base weight, of its shape."""
        weight = self.require_base_weight(base_weight)
        a1, a2, b1, b2 = self._matrices()
        added = (b1.flatten(1) @ b2.flatten(1)).reshape(weight.shape)
        return (_times_inputs(weight, a1.flatten(1) @ a2.flatten(1)) + added) * self.scale

    def _matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a1 `(in, r)`, a2 `(r, in)`, b1 `(out, r)` and b2 `(r, in, k, k)`, with further 1s in convolutions.

        The first releases of LyCORIS stored the two of each product the other way round.
        """
        a1, a2, b1, b2 = map(self.leaf, GLORA)
        return (a1, a2, b1, b2) if a1.shape[1] == a2.shape[0] == b1.shape[1] == b2.shape[0] else (a2, a1, b2, b1)


def _times_inputs(weight: Tensor, matrix: Tensor) -> Tensor:
    """Return a weight `(out, in, ...)` times a matrix `(in, n)` along its inputs: `(out, n, ...)`."""
    return torch.einsum("oi...,in->on...", weight, matrix.flatten(1))
