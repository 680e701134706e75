"""DoRA on LoCon, LoHa and LoKr: the changed weight is brought to trained lengths, `m * (W + change) / ||W + change||`.

Source: DoRA, Liu et al. (arXiv 2402.09353), equation 5; see `bwlab.formats.algorithms.dora`. As in LyCORIS, gradients
pass through the lengths ||W + change||.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bwlab.adapters.layer import BaseLayer, dense_weight
from bwlab.adapters.lowrank import project_down, project_down_fast, project_up
from bwlab.formats.algorithms.dora import EPSILON
from bwlab.formats.keys import DOWN, MAGNITUDE, UP
from bwlab_lycoris.layer import BaseAwareLycorisLayer, ProductLayer, recomputed
from bwlab_lycoris.loha import LohaLayer
from bwlab_lycoris.lokr import LokrLayer


class DecomposedLayer(BaseAwareLycorisLayer, ProductLayer):
    """A change of the weight whose rows, or input channels, are then brought to the lengths in `dora_scale`.

    With one length per row, `m / ||W + change|| = 1 + g` scales the outputs: the layer adds `g W x + (1 + g) change x`,
    and the first product is the output of the frozen layer. With one length per input channel, or where the lengths of
    the rows need the whole change anyway, the delta is the weight of one more operation.
    """

    def row_products(self, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return for each row of the change its inner product with that row of the weight, and its squared length.

        Args:
            weight: the base weight `(out, in * k * k)`.

        Returns:
            Two tensors `(out,)`; None if they cost as much as the whole change.

        """
        return None

    def forward(self, x: Tensor, base_output: Tensor, base: BaseLayer) -> Tensor:  # type: ignore[override]
        """Return the tensor that is added at scale 1, of `base_output`'s shape."""
        weight = dense_weight(base)
        gains = self._row_gains(weight) if self._by_row() else None
        if gains is None:
            wide, own = self.weight_dtype(), self.compute_dtype()
            return recomputed(lambda given: project_down(given, self.delta(weight.to(wide)).to(own), self._geometry), x)
        gains = gains if isinstance(base, nn.Linear) else gains[:, None, None]
        rows, part = self.base_part(base_output, base), self.part(x)
        return gains.to(rows.dtype) * rows + (1 + gains).to(part.dtype) * part

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return the change of the base weight after the lengths, of its shape, in float32 at least.

        It is a small difference of two weights, which half precision would lose.
        """
        given = self.require_base_weight(base_weight)
        weight = given.to(torch.promote_types(given.dtype, torch.float32))
        with torch.autocast(weight.device.type, enabled=False):
            changed = weight + self.change().to(weight.dtype)
            over = tuple(axis for axis in range(weight.dim()) if axis != (0 if self._by_row() else 1))
            lengths: Tensor = torch.linalg.vector_norm(changed, dim=over, keepdim=True) + EPSILON
            return changed * (self._lengths().to(weight.dtype).view(lengths.shape) / lengths) - weight

    def weight_dtype(self) -> torch.dtype:
        """Return float32, or a wider dtype of the adapter."""
        return torch.promote_types(self.compute_dtype(), torch.float32)

    def _row_gains(self, weight: Tensor) -> Tensor | None:
        """Return `m / ||W + change|| - 1` for each row, in float32 at least; None where `row_products` is None."""

        def gains(frozen: Tensor) -> Tensor | None:
            wide = frozen.detach().to(self.weight_dtype()).flatten(1)
            products = self.row_products(wide)
            if products is None:
                return None
            squares = wide.square().sum(1) + 2 * products[0] + products[1]
            return self._lengths().flatten() / (squares.clamp(min=0).sqrt() + EPSILON) - 1

        with torch.autocast(weight.device.type, enabled=False):
            if weight.dtype.itemsize >= 4:
                return gains(weight)
            # A weight in half precision is cast; the copy is not kept for the backward pass.
            again: Tensor | None = checkpoint(gains, weight, use_reentrant=False, preserve_rng_state=False)
            return again

    def _lengths(self) -> Tensor:
        return self.leaf(MAGNITUDE)

    def _by_row(self) -> bool:
        """Return whether there is one length for each row."""
        lengths = self._lengths()
        return lengths.dim() == 1 or lengths.shape[0] == self.weight_shape[0]


class DoraLayer(DecomposedLayer):
    """DoRA on LoRA, or on the LoCon form of LoRA on a convolution."""

    type_name = "dora"

    def change(self) -> Tensor:
        """Return `s * up @ down`, of shape `weight_shape`."""
        up, down = self._factors()
        return (up.flatten(1) @ down.flatten(1) * self.scale).reshape(self.weight_shape)

    def part(self, x: Tensor) -> Tensor:
        """Return `s * up(down(x))`."""
        up, down = self._factors()
        return project_up(project_down_fast(x, down, self._geometry), up) * self.scale

    def row_products(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the products from the factors, without the whole change."""
        up, down = (factor.flatten(1).to(weight.dtype) for factor in self._factors())
        with_weight = ((weight @ down.T) * up).sum(1) * self.scale
        return with_weight, ((up @ (down @ down.T)) * up).sum(1) * self.scale**2

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Return up and down in the shapes of this layer: files may swap linear layers and 1 x 1 convolutions."""
        out, *inner = self.weight_shape
        up, down = self.leaf(UP), self.leaf(DOWN)
        return up.reshape(out, self.rank, *(1 for _ in inner[1:])), down.reshape(self.rank, *inner)


class DohaLayer(DecomposedLayer, LohaLayer):
    """DoRA on LoHa."""

    type_name = "doha"


class DokrLayer(DecomposedLayer, LokrLayer):
    """DoRA on LoKr."""

    type_name = "dokr"

    def row_products(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the products from the two matrices, without the whole change."""
        mix, whole = self.mixing().to(weight.dtype), self.second().whole().to(weight.dtype)
        inner = (weight.reshape(len(mix), len(whole), mix.shape[1], -1) * whole[:, None, :]).sum(-1)
        with_weight = (inner * mix[:, None, :]).sum(-1).flatten() * self.scale
        return with_weight, torch.outer(mix.square().sum(1), whole.square().sum(1)).flatten() * self.scale**2
