"""Changes that are stored directly: the channel factors of IA3, and the full differences of weights and of norms.

Sources: (IA)^3, Liu et al. (arXiv 2205.05638), section 3.3; the leaves are those of LyCORIS.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, Shapes, UnfitLeaves
from bwlab.formats.tensors import LazyTensor

WEIGHT, ON_INPUT = "weight", "on_input"
DIFF, DIFF_BIAS = "diff", "diff_b"
NORM_WEIGHT, NORM_BIAS = "w_norm", "b_norm"
BIAS_LEAVES = (DIFF_BIAS, NORM_BIAS)


class Ia3(Algorithm):
    """A factor for each output channel, or for each input channel where `on_input` is not 0."""

    name = "ia3"
    leaves = frozenset({WEIGHT, ON_INPUT})
    needs_base = True

    def recognises(self, shapes: Shapes) -> bool:
        """Return whether both leaves are present: `weight` alone could mean anything."""
        return shapes.keys() >= self.leaves

    def shape(self, shapes: Shapes) -> None:
        """Return None: the leaves determine one side only. Raise `UnfitLeaves` if they are not a row of factors."""
        if sum(size != 1 for size in shapes[WEIGHT]) > 1 or 0 in shapes[WEIGHT]:
            raise UnfitLeaves(f"weight {shapes[WEIGHT]} is not a row of factors")

    def fits(self, leaves: Mapping[str, LazyTensor], weight: Shape) -> bool:
        """Return whether there is one factor for each channel of the scaled side."""
        on_input = bool(leaves[ON_INPUT].read().reshape(-1)[0])
        return leaves[WEIGHT].size == weight[1 if on_input else 0]

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return `W * w`, with w along the outputs or the inputs of the base weight W."""
        assert base is not None
        ones = tuple(1 for _ in base.shape[2:])
        on_input = bool(leaves[ON_INPUT].reshape(-1)[0])
        return base * leaves[WEIGHT].reshape((1, -1, *ones) if on_input else (-1, 1, *ones))

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the factors."""
        return (WEIGHT,)


class Full(Algorithm):
    """The full difference of a weight, and of a bias."""

    name = "full"
    leaves = frozenset({DIFF, DIFF_BIAS})

    def recognises(self, shapes: Shapes) -> bool:
        """Return whether there is a difference of a weight."""
        return DIFF in shapes

    def shape(self, shapes: Shapes) -> Shape:
        """Return the shape of the difference."""
        diff, bias = shapes[DIFF], shapes.get(DIFF_BIAS)
        if not diff or 0 in diff or (bias is not None and bias != diff[:1]):
            raise UnfitLeaves(f"diff {diff} and diff_b {bias} do not fit one layer")
        return diff

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return the difference itself."""
        return leaves[DIFF]

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the difference."""
        return (DIFF,)


class Norm(Algorithm):
    """The difference of a norm's weight `(channels,)`, and of its bias."""

    name = "norm"
    leaves = frozenset({NORM_WEIGHT, NORM_BIAS})

    def recognises(self, shapes: Shapes) -> bool:
        """Return whether there is a difference of a norm's weight."""
        return NORM_WEIGHT in shapes

    def shape(self, shapes: Shapes) -> Shape:
        """Return `(channels,)`."""
        weight, bias = shapes[NORM_WEIGHT], shapes.get(NORM_BIAS)
        if len(weight) != 1 or 0 in weight or bias not in (None, weight):
            raise UnfitLeaves(f"w_norm {weight} and b_norm {bias} do not fit one norm")
        return weight

    def delta(self, leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        """Return the difference of the weight."""
        return leaves[NORM_WEIGHT]

    def linear_leaves(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the difference of the weight."""
        return (NORM_WEIGHT,)
