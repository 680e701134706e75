"""The layers of diag-OFT and BOFT: the outputs of a layer are rotated in blocks.

Sources: OFT, Qiu et al. (arXiv 2306.07280), section 4; BOFT, Liu et al. (arXiv 2311.06243), section 4; see
`bwlab.formats.algorithms.oft`, also for where LyCORIS differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from bwlab.adapters.layer import AdapterLayer, BaseLayer
from bwlab.errors import BwlabError
from bwlab.formats.keys import ALPHA
from bwlab_lycoris.layer import BaseAwareLycorisLayer, recomputed


class OftLayer(BaseAwareLycorisLayer):
    """A diag-OFT. Rotating the outputs of the frozen layer is rotating the rows of its weight.

    Attributes:
        alpha: the constraint: a bound of the norm of all Q together, divided by the number of outputs; 0 for none.

    """

    type_name = "oft"

    def __init__(self, layer: BaseLayer, tensors: Mapping[str, Tensor], alpha: float | None) -> None:
        super().__init__(layer, tensors, alpha or 0.0)

    @classmethod
    def create(
        cls, layer: BaseLayer, rank: int, alpha: float, generator: torch.Generator | None, **options: object
    ) -> Self:
        """Return a layer with blocks of at most this rank; `BwlabError` where blocks of 1 could rotate nothing."""
        made = super().create(layer, rank, alpha, generator, **options)
        if made.rank == 1:
            raise BwlabError(
                f"{cls.type_name} of rank {rank} on a weight of shape {made.weight_shape}",
                f"{made.weight_shape[0]} outputs cannot be divided into more than one block of 2 to {rank}",
                "Give a larger rank, or leave that layer out, by rank 0",
            )
        return made

    def rank_of(self, tensors: Mapping[str, Tensor], alpha: float | None) -> int:
        """Return the size of a block."""
        return int(tensors["oft_blocks"].shape[-1])

    def started_at(self, layer: BaseLayer, tensors: Mapping[str, Tensor]) -> AdapterLayer:
        """Return the layer of these tensors with this layer's constraint."""
        return type(self).from_tensors(layer, {**tensors, ALPHA: torch.tensor(self.alpha)})

    def forward(self, x: Tensor, base_output: Tensor, base: BaseLayer) -> Tensor:  # type: ignore[override]
        """Return the change of the frozen layer's output, without touching the weight."""
        rows = self.base_part(base_output, base)
        if isinstance(base, nn.Linear):
            return self._changed(rows.flatten(0, -2).T).T.reshape(rows.shape)
        return self._changed(rows.flatten(2)).reshape(rows.shape)

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return the change of the base weight, of its shape."""
        weight = self.require_base_weight(base_weight)
        return self._changed(weight.flatten(1)).reshape(weight.shape)

    def turns(self) -> Tensor:
        """Return R - I for every block: `2 (I - Q)^-1 Q` is `(I + Q)(I - Q)^-1 - I`, and exactly 0 for Q = 0.

        Computed in float32 at least, as CPUs solve nothing in half precision.
        """
        blocks: Tensor = self.leaf("oft_blocks")
        with torch.autocast(blocks.device.type, enabled=False):
            wide = blocks.to(torch.promote_types(blocks.dtype, torch.float32))
            skew = wide - wide.transpose(-1, -2)
            if self.alpha > 0:
                bound, norm = self.alpha * math.prod(blocks.shape[-3:-1]), torch.linalg.vector_norm(skew) + 1e-8
                skew = skew * (bound / norm).clamp(max=1.0)
            eye = torch.eye(blocks.shape[-1], dtype=wide.dtype, device=wide.device)
            solved: Tensor = torch.linalg.solve(eye - skew, skew)
        return 2 * solved

    def _changed(self, rows: Tensor) -> Tensor:
        """Return the change of `rows` `(..., out, n)`."""
        turned = self.rotation(rows, self.turns().to(rows.dtype))
        if "rescale" not in self.weights:
            return turned
        factors = self.leaf("rescale").flatten()[:, None].to(rows.dtype)
        return factors * turned + (factors - 1) * rows

    def rotation(self, rows: Tensor, turns: Tensor) -> Tensor:
        """Return the change of `rows` `(..., out, n)` by the rotation alone."""
        blocks: Tensor = turns.transpose(-1, -2) @ rows.unflatten(-2, turns.shape[:2])
        return blocks.flatten(-3, -2)


class BoftLayer(OftLayer):
    """A BOFT: stage i brings together outputs 2^i * b / 2 apart, rotates blocks of b, and puts the outputs back.

    The backward pass computes the stages again, so that it keeps the outputs once and not once for each stage.
    """

    type_name = "boft"

    def rotation(self, rows: Tensor, turns: Tensor) -> Tensor:
        """Return the change of `rows` `(..., out, n)` by the butterfly alone."""
        return recomputed(lambda given: _butterfly(given, turns), rows)


def _butterfly(rows: Tensor, turns: Tensor) -> Tensor:
    """Return the sum of the changes of all stages; summed, a stage that turns nothing adds exactly 0."""
    stages, count, size, _ = turns.shape
    total = torch.zeros_like(rows)
    for stage in range(stages):
        half = 2**stage * size // 2
        together = (rows + total).unflatten(-2, (-1, 2, half)).transpose(-3, -2).flatten(-4, -2)
        change = (turns[stage] @ together.unflatten(-2, (count, size))).flatten(-3, -2)
        total = total + change.unflatten(-2, (-1, half, 2)).transpose(-3, -2).flatten(-4, -2)
    return total
