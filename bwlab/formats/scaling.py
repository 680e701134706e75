"""A module times a number, and modules with one alpha for all: written so that any loader makes the same deltas.

A number goes into one leaf in which the delta is linear. A leaf whose dtype would round the product is written in
float32, so nothing is lost.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS
from bwlab.formats.encoding import exactly
from bwlab.formats.module_weights import BIAS_LEAVES, ModuleWeights
from bwlab.formats.tensors import LazyTensor, Numbers

# Of each algorithm sets of leaves, such that a delta is multiplied by what each leaf of the first set that is there is.
_LINEAR: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "lora": (("lora_up.weight",),),
    "tucker": (("lora_up.weight",),),
    "loha": (("hada_w1_a",),),
    "lokr": (("lokr_w1",), ("lokr_w1_a",)),
    "glora": (("a1.weight", "b1.weight"),),
    "ia3": (("weight",),),
    "full": (("diff",),),
    "norm": (("w_norm",),),
}
# Those whose inner delta may be told with another alpha, though the whole delta is not linear in it.
_INNER = {"dora": "lora", "dora-tucker": "tucker", "doha": "loha", "dokr": "lokr"}


def can_scale(module: ModuleWeights) -> bool:
    """Whether its delta times any number can be written with the same leaves."""
    return module.algorithm in _LINEAR


def scaled(module: ModuleWeights, factor: float) -> ModuleWeights:
    """The module whose deltas, of weight and bias, are `factor` times these.

    Raises:
        BwlabError: the delta is not linear in any leaf (OFT, DoRA), or a number is NaN or infinite.
    """
    if factor == 1.0:
        return module
    if not can_scale(module):
        raise BwlabError(
            f"{module.path} in {module.source or 'an adapter'} times {factor:g}",
            f"it is written as {module.algorithm}, which can only be kept or dropped whole",
            "Give its blocks the scale 0 or 1, or turn it into a low-rank form with --rank and --base",
        )
    biases = [leaf for leaf in BIAS_LEAVES if leaf in module.leaves]
    return _with(module, [*_linear(module), *biases], factor, module.alpha)


def with_alpha(module: ModuleWeights, alpha: float) -> ModuleWeights:
    """The module with the same deltas, told with another alpha; itself where its alpha is no scale.

    Raises:
        BwlabError: its alpha is NaN, infinite or 0.
    """
    own = own_alpha(module)
    if own is None or own == alpha == module.alpha:
        return module
    leaves = [] if own == alpha else _linear(module)
    return _with(module, leaves, own / alpha, alpha)


def own_alpha(module: ModuleWeights) -> float | None:
    """The alpha by which `alpha / rank` is its scale; None where alpha is no scale, or only a plugin knows."""
    rank = module.rank() if module.algorithm in ALGORITHMS else None
    return None if rank is None else module.scale() * rank


def with_one_alpha(modules: Iterable[ModuleWeights]) -> list[ModuleWeights]:
    """The modules with one alpha for all whose alpha is a scale: the commonest one.

    diffusers 0.42 mis-scales files in which modules differ in alpha.
    """
    listed = list(modules)
    alpha = common_alpha(listed)
    return [with_alpha(module, alpha) for module in listed] if alpha is not None else listed


def common_alpha(modules: Iterable[ModuleWeights]) -> float | None:
    """The commonest alpha among modules whose alpha is a scale; None if there are none."""
    alphas = Counter(alpha for module in modules if (alpha := own_alpha(module)) is not None)
    return alphas.most_common(1)[0][0] if alphas else None


def with_unit_scale(module: ModuleWeights) -> ModuleWeights:
    """The module with alpha equal to its rank, as tools read files that carry no alpha."""
    rank = module.rank()
    return module if rank is None else with_alpha(module, float(rank))


def _linear(module: ModuleWeights) -> list[str]:
    choices = _LINEAR[_INNER.get(module.algorithm, module.algorithm)]
    return list(next(choice for choice in choices if module.leaves.keys() >= set(choice)))


def _with(module: ModuleWeights, leaves: Iterable[str], factor: float, alpha: float | None) -> ModuleWeights:
    changed = {leaf: _times(module.leaves[leaf], factor) for leaf in leaves}
    return dataclasses.replace(module, leaves={**module.leaves, **changed}, alpha=alpha)


def _times(tensor: LazyTensor, factor: float) -> LazyTensor:
    wide = np.float64 if tensor.dtype == "F64" else np.float32
    product: Numbers = (tensor.numbers(np.float64) * factor).astype(wide)
    return exactly(product, tensor.dtype, tensor.key)
