"""The IA3 layer: a factor `1 + w` for each output channel, or for each input channel.

Source: (IA)^3, Liu et al. (arXiv 2205.05638), section 3.3; see `bwlab.formats.algorithms.full`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bwlab.adapters.layer import BaseLayer, dense_weight
from bwlab.adapters.lowrank import project_down
from bwlab.formats.algorithms.full import ON_INPUT, WEIGHT
from bwlab_lycoris.layer import BaseAwareLycorisLayer, recomputed


class Ia3Layer(BaseAwareLycorisLayer):
    """An IA3; its rank and its alpha are 1, and no file holds them."""

    type_name = "ia3"

    def __init__(self, layer: BaseLayer, tensors: Mapping[str, Tensor], alpha: float | None) -> None:
        self.on_input = bool(tensors[ON_INPUT].flatten()[0])
        self._on_input_dtype = tensors[ON_INPUT].dtype
        super().__init__(layer, {WEIGHT: tensors[WEIGHT]}, None)

    def rank_of(self, tensors: Mapping[str, Tensor], alpha: float | None) -> int:
        """Return 1."""
        return 1

    def tensors(self) -> dict[str, Tensor]:
        """Return `weight`, and `on_input` as 0 or 1."""
        on_input = torch.tensor(int(self.on_input), dtype=self._on_input_dtype)
        return {WEIGHT: self.leaf(WEIGHT).detach(), ON_INPUT: on_input}

    def file_tensors(self, alpha: float) -> dict[str, Tensor]:
        """Return the tensors: there is no alpha."""
        return self.tensors()

    def forward(self, x: Tensor, base_output: Tensor, base: BaseLayer) -> Tensor:  # type: ignore[override]
        """Return `w` times the output of the frozen weight, or that output for `w` times x."""
        ones = () if isinstance(base, nn.Linear) else (1, 1)
        factors = self.leaf(WEIGHT).view(-1, *ones)
        if self.on_input:
            return recomputed(
                lambda given: project_down(given * factors, dense_weight(base).to(given.dtype), self._geometry), x
            )
        part = self.base_part(base_output, base)
        return part * factors.to(part.dtype)

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return `W * w`, with w along the outputs or the inputs."""
        weight = self.require_base_weight(base_weight)
        ones = (1,) * (weight.dim() - 2)
        return weight * self.leaf(WEIGHT).view(*((1, -1) if self.on_input else (-1, 1)), *ones)
