"""Every algorithm that adapter files are written in, and finding the one of a module."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bwlab.errors import BwlabError
from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Numbers, Shape, UnfitLeaves
from bwlab.formats.algorithms.dora import with_magnitude
from bwlab.formats.algorithms.full import FULL, IA3, NORM
from bwlab.formats.algorithms.glora import GLORA
from bwlab.formats.algorithms.loha import LOHA
from bwlab.formats.algorithms.lokr import LOKR
from bwlab.formats.algorithms.lora import LORA, TUCKER
from bwlab.formats.algorithms.oft import BLOCKS, BOFT, OFT

__all__ = ["ALGORITHMS", "Algorithm", "UnfitLeaves", "algorithm_of"]

# The first that recognises a module's leaves is it: what only adds a leaf to another stands before that.
ALGORITHMS: Mapping[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        with_magnitude(TUCKER, "dora-tucker"),
        with_magnitude(LORA, "dora"),
        with_magnitude(LOHA, "doha"),
        with_magnitude(LOKR, "dokr"),
        TUCKER,
        LORA,
        LOHA,
        LOKR,
        BOFT,
        OFT,
        GLORA,
        IA3,
        FULL,
        NORM,
    )
}

# A module of any algorithm may also change the layer's bias.
BIAS_LEAVES = frozenset({"diff_b"})
LEAVES = frozenset().union(*(algorithm.leaves for algorithm in ALGORITHMS.values()), BIAS_LEAVES)


def of_a_plugin(name: str) -> Algorithm:
    """Return the algorithm of an adapter type whose leaves nobody but its plugin understands: no shape, no rank, no delta."""

    def delta(leaves: Leaves, alpha: float | None, base: Numbers | None) -> Numbers:
        found = "only the plugin of that adapter type computes it"
        raise BwlabError(f"the delta of a module of type {name}", found, "Load the file with its base model")

    return Algorithm(name, lambda leaves: False, frozenset(), lambda shapes: None, lambda shapes: None, delta)


def algorithm_of(shapes: Mapping[str, Shape]) -> Algorithm | None:
    """Return the algorithm of a module with leaves of these names and shapes, `alpha` aside; None if it is of none."""
    leaves: Collection[str] = frozenset(shapes)
    if BLOCKS in leaves:
        return BOFT if len(shapes[BLOCKS]) == 4 else OFT
    return next((known for known in ALGORITHMS.values() if known.recognises(frozenset(leaves))), None)
