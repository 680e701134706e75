"""All algorithms that adapter files are written in, and the lookup of a module's algorithm.

An algorithm is a subclass of `algorithm.Algorithm` with an entry in `ALGORITHMS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from bwlab.formats.algorithms.algorithm import Algorithm, PluginAlgorithm, Shape, UnfitLeaves, unknown_type
from bwlab.formats.algorithms.dora import Dora
from bwlab.formats.algorithms.full import Full, Ia3, Norm
from bwlab.formats.algorithms.glora import Glora
from bwlab.formats.algorithms.loha import Loha
from bwlab.formats.algorithms.lokr import Lokr
from bwlab.formats.algorithms.lora import Lora, Tucker
from bwlab.formats.algorithms.oft import Boft, Oft

__all__ = ["ALGORITHMS", "Algorithm", "UnfitLeaves", "algorithm_named", "algorithm_of", "unknown_type"]

# The first algorithm that recognises a module's leaves is used, so an algorithm that adds a leaf precedes the original.
ALGORITHMS: Mapping[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Boft(),
        Oft(),
        Dora(Tucker(), "dora-tucker"),
        Dora(Lora(), "dora"),
        Dora(Loha(), "doha"),
        Dora(Lokr(), "dokr"),
        Tucker(),
        Lora(),
        Loha(),
        Lokr(),
        Glora(),
        Ia3(),
        Full(),
        Norm(),
    )
}


def algorithm_named(name: str) -> Algorithm:
    """Return the algorithm with this name; for a plugin's adapter type, an algorithm that computes nothing."""
    return ALGORITHMS.get(name) or PluginAlgorithm(name)


def algorithm_of(shapes: Mapping[str, Shape]) -> Algorithm | None:
    """Return the algorithm of a module with these leaf names and shapes, excluding `alpha`; None if none matches."""
    return next((known for known in ALGORITHMS.values() if known.recognises(shapes)), None)
