"""The ortho layer: `delta = alpha / rank * U diag(s) V^T` with orthonormal columns of U and V."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from bwlab.adapters.layer import AdapterLayer, BaseLayer, check_rank_and_alpha, refuse_unknown_options, weight_shape
from bwlab.adapters.lowrank import LowRankLayer, add_projected_up, geometry_of, project_down_fast, project_up
from bwlab.errors import BwlabError
from bwlab.formats.keys import ALPHA, DOWN, UP
from bwlab_ortho.orthonormal import orthonormal

if TYPE_CHECKING:
    from bwlab.linalg.factored import FactoredMatrix

# A row of a LoRA's down starts at this norm (kaiming-uniform with a = sqrt(5)). The columns behind U and V start at it
# too, and s is in units of it times sqrt(out), so that a learning rate moves an ortho adapter as it does a LoRA.
START = math.sqrt(1 / 3)


@dataclass(frozen=True, eq=False)
class Spaces:
    """The column and row space of another adapter's delta at one layer.

    Attributes:
        left: orthonormal columns `(out, k)` that span its column space.
        right: orthonormal columns `(in * k * k, k)` that span its row space.
        source: file and module, for messages.

    """

    left: Tensor
    right: Tensor
    source: str


class OrthoLayer(AdapterLayer):
    """An ortho adapter in training; what a file of it holds is a plain low-rank layer.

    U `(out, rank)` and V `(in * k * k, rank)` are the orthonormal factors of two unconstrained parameters, so every
    step of any optimiser keeps them orthonormal. s starts at 0: a new layer changes nothing, and in the first step only
    s has a gradient, as only up has one in a LoRA.
    """

    type_name = "ortho"

    def __init__(
        self, layer: BaseLayer, left: Tensor, values: Tensor, right: Tensor, alpha: float, avoid: Spaces | None = None
    ) -> None:
        super().__init__()
        self._geometry = geometry_of(layer)
        self.weight_shape = weight_shape(layer)
        self.rank = len(values)
        check_rank_and_alpha(self.rank, alpha)
        self.alpha = float(alpha)
        self.left, self.values, self.right = nn.Parameter(left), nn.Parameter(values), nn.Parameter(right)
        self.avoid_left: Tensor | None
        self.avoid_right: Tensor | None
        # Buffers: they move with the layer and are kept in checkpoints, so a resumed run does not need the file.
        self.register_buffer("avoid_left", None if avoid is None else avoid.left.to(left))
        self.register_buffer("avoid_right", None if avoid is None else avoid.right.to(right))
        self._source = "" if avoid is None else avoid.source

    @classmethod
    def create(
        cls, layer: BaseLayer, rank: int, alpha: float, generator: torch.Generator | None, **options: object
    ) -> Self:
        """Return a no-op adapter of this rank, float32, on the layer's device.

        Args:
            options: `avoid`, the `Spaces` to keep out of, or None.

        Raises:
            BwlabError: another option, or a rank for which the layer, or what `avoid` leaves of it, has no room.

        """
        refuse_unknown_options(cls.type_name, options, ("avoid",))
        check_rank_and_alpha(rank, alpha)
        avoid = options.get("avoid")
        assert avoid is None or isinstance(avoid, Spaces)
        out, *inner = weight_shape(layer)
        sides = out, math.prod(inner)
        _check_room(rank, sides, avoid)
        device = generator.device if generator is not None else torch.device("cpu")
        left, right = (
            (torch.randn(side, rank, generator=generator, device=device) * (START / math.sqrt(side))).to(
                layer.weight.device
            )
            for side in sides
        )
        return cls(layer, left, torch.zeros_like(left[0]), right, alpha, avoid)

    @classmethod
    def from_tensors(cls, layer: BaseLayer, tensors: Mapping[str, Tensor]) -> LowRankLayer:
        """Return the plain low-rank layer of a file: its bits stay. `started_at` gives one that trains as ortho."""
        return LowRankLayer.from_tensors(layer, tensors)

    def started_at(self, layer: BaseLayer, tensors: Mapping[str, Tensor]) -> OrthoLayer:
        """Return an ortho layer with the delta of these tensors, without its part in the avoided spaces."""
        plain = LowRankLayer.from_tensors(layer, tensors)
        left, values, right = _decomposed(plain)
        unit = plain.scale * START * math.sqrt(len(left))
        avoid = None
        if self.avoid_left is not None and self.avoid_right is not None:
            avoid = Spaces(self.avoid_left, self.avoid_right, self._source)
        _check_room(plain.rank, (len(left), len(right)), avoid)
        return type(self)(layer, left * START, values / unit, right * START, plain.alpha, avoid)

    def tensors(self) -> dict[str, Tensor]:
        """Return the plain low-rank leaves: up = U diag(s), down = V^T, and alpha."""
        return self.file_tensors(self.alpha)

    @torch.no_grad()
    def file_tensors(self, alpha: float) -> dict[str, Tensor]:
        """Return `tensors()` with `self.alpha / alpha` multiplied into up."""
        up, down = self._factors(self.alpha / alpha)
        return {DOWN: down.contiguous(), UP: up.contiguous(), ALPHA: torch.tensor(alpha)}

    def forward(self, x: Tensor, base_output: Tensor) -> Tensor:
        """Return `alpha / rank * U diag(s) V^T x`, of `base_output`'s shape."""
        up, down = self._factors(self.alpha / self.rank)
        return project_up(project_down_fast(x, down, self._geometry), up)

    def add_to(self, total: Tensor, x: Tensor, base_output: Tensor, scale: float) -> Tensor:
        """Return `total` plus `scale` times the result of `forward`, in one pass over `total`."""
        up, down = self._factors(self.alpha / self.rank)
        return add_projected_up(total, project_down_fast(x, down, self._geometry), up, scale)

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return `alpha / rank * U diag(s) V^T` as a weight of shape `weight_shape`; the base weight is not needed."""
        up, down = self._factors(self.alpha / self.rank)
        return (up.flatten(1) @ down.flatten(1)).reshape(self.weight_shape)

    @torch.no_grad()
    def factors(self) -> FactoredMatrix:
        """Return up `(out, r)` with the scale folded in and down `(r, in * k * k)`, as float64 arrays."""
        from bwlab.linalg.factored import FactoredMatrix

        up, down = (factor.flatten(1).double().cpu() for factor in self._factors(1.0))
        return FactoredMatrix((up * (self.alpha / self.rank)).numpy(), down.numpy())

    def bases(self) -> tuple[Tensor, Tensor]:
        """Return U `(out, rank)` and V `(in * k * k, rank)`, with gradients."""
        return orthonormal(self.left, self.avoid_left), orthonormal(self.right, self.avoid_right)

    def singular_values(self) -> Tensor:
        """Return s `(rank,)`, of either sign, before `alpha / rank`."""
        return self.values * (START * math.sqrt(self.weight_shape[0]))

    def _factors(self, scale: float) -> tuple[Tensor, Tensor]:
        """Return up with `scale` in it, and down, in the shapes of a file."""
        left, right = self.bases()
        out, *inner = self.weight_shape
        up = left * (self.singular_values() * scale)
        return up.reshape(out, self.rank, *(1 for _ in inner[1:])), right.T.reshape(self.rank, *inner)


def _decomposed(layer: LowRankLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Return left `(out, r)`, singular values `(r,)` and right `(in * k * k, r)` of a layer's delta, in its dtype."""
    up, down = layer.up.detach().flatten(1).double(), layer.down.detach().flatten(1).double()
    out_basis, out_triangle = torch.linalg.qr(up)
    in_basis, in_triangle = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(out_triangle @ in_triangle.T * layer.scale, full_matrices=False)
    parts = out_basis @ left, values, in_basis @ right.T
    first, second, third = (part.to(layer.up.dtype) for part in parts)
    return first, second, third


def _check_room(rank: int, sides: tuple[int, int], avoid: Spaces | None) -> None:
    avoided = (0, 0) if avoid is None else (avoid.left.shape[1], avoid.right.shape[1])
    for side, used in zip(sides, avoided, strict=True):
        if rank + used > side:
            where = f" outside the {used} directions of {avoid.source}" if avoid is not None and used else ""
            raise BwlabError(
                f"ortho of rank {rank} on a weight of {sides[0]} x {sides[1]}",
                f"there are only {side - used} orthogonal directions of {side}{where}",
                f"Give a rank of at most {side - used}" if side > used else "Leave that layer out, by rank 0",
            )
