"""Changes written as they are: IA3's factors of channels, whole differences of weights, and those of norms.

Sources: (IA)^3, Liu et al. (arXiv 2205.05638), section 3.3; the leaves are those of LyCORIS.
"""

from __future__ import annotations

from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, Shapes, UnfitLeaves

WEIGHT, ON_INPUT = "weight", "on_input"
DIFF, DIFF_BIAS = "diff", "diff_b"
NORM_WEIGHT, NORM_BIAS = "w_norm", "b_norm"


def ia3_delta(leaves: Leaves, _alpha: float | None, base: Numbers | None) -> Numbers:
    """`W * w`, with one w for each output channel, or for each input channel where `on_input` is not 0."""
    assert base is not None
    ones = tuple(1 for _ in base.shape[2:])
    on_input = bool(leaves[ON_INPUT].reshape(-1)[0])
    return base * leaves[WEIGHT].reshape((1, -1, *ones) if on_input else (-1, 1, *ones))


def full_delta(leaves: Leaves, _alpha: float | None, _base: Numbers | None = None) -> Numbers:
    """Return the difference itself."""
    return leaves[DIFF]


def norm_delta(leaves: Leaves, _alpha: float | None, _base: Numbers | None = None) -> Numbers:
    """Return the difference of a norm's weight, `(channels,)`."""
    return leaves[NORM_WEIGHT]


def _ia3_shape(shapes: Shapes) -> Shape | None:
    """None: the leaves tell one side only."""
    if sum(size != 1 for size in shapes[WEIGHT]) > 1 or 0 in shapes[WEIGHT]:
        raise UnfitLeaves(f"weight {shapes[WEIGHT]} is no row of factors")
    return None


def _full_shape(shapes: Shapes) -> Shape:
    diff, bias = shapes[DIFF], shapes.get(DIFF_BIAS)
    if not diff or 0 in diff or (bias is not None and bias != diff[:1]):
        raise UnfitLeaves(f"diff {diff} and diff_b {bias} do not fit one layer")
    return diff


def _norm_shape(shapes: Shapes) -> Shape:
    weight, bias = shapes[NORM_WEIGHT], shapes.get(NORM_BIAS)
    if len(weight) != 1 or 0 in weight or bias not in (None, weight):
        raise UnfitLeaves(f"w_norm {weight} and b_norm {bias} do not fit one norm")
    return weight


def _no_rank(_shapes: Shapes) -> None:
    return None


IA3 = Algorithm(
    "ia3",
    lambda leaves: leaves >= {WEIGHT, ON_INPUT},
    frozenset({WEIGHT, ON_INPUT}),
    _ia3_shape,
    _no_rank,
    ia3_delta,
    needs_base=True,
)
FULL = Algorithm("full", lambda leaves: DIFF in leaves, frozenset({DIFF, DIFF_BIAS}), _full_shape, _no_rank, full_delta)
NORM = Algorithm(
    "norm", lambda leaves: NORM_WEIGHT in leaves, frozenset({NORM_WEIGHT, NORM_BIAS}), _norm_shape, _no_rank, norm_delta
)
