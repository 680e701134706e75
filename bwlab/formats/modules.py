"""One adapted module of a file: its leaves, read on demand, and the change of the weight that they stand for."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS, of_a_plugin
from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Shape
from bwlab.formats.tensors import LazyTensor, Numbers, exactly

if TYPE_CHECKING:
    from bwlab.linalg.factored import FactoredMatrix, Part


BIAS_LEAVES = ("diff_b", "b_norm")

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


@dataclass(frozen=True, eq=False)
class ModuleWeights:
    """One adapted module.

    Attributes:
        path: diffusers module path of the UNet; `te.<path>` / `te2.<path>` in text encoders.
        algorithm: `"lora"` (linear and conv), `"tucker"`, `"dora"`, `"dora-tucker"`, `"loha"`, `"doha"`, `"lokr"`,
            `"dokr"`, `"oft"`, `"boft"`, `"glora"`, `"ia3"`, `"full"` or `"norm"`; or the name of an adapter type of a
            plugin, whose leaves only that plugin understands.
        leaves: canonical leaf name (kohya's and LyCORIS': `"lora_down.weight"`, `"hada_w1_a"`) -> tensor; alpha aside.
        alpha: as the file has it, None where it has none; of `oft` and `boft` the constraint, which is no scale.
        source: the file, for messages.

    """

    path: str
    algorithm: str
    leaves: Mapping[str, LazyTensor]
    alpha: float | None
    source: str = ""

    @property
    def needs_base(self) -> bool:
        """Whether `delta` needs the weight that it changes."""
        return self._how.needs_base

    @cached_property
    def shape(self) -> Shape | None:
        """Of the delta: `(out, in)`, `(out, in, k, k)`, `(channels,)` of a norm, None where only the base weight tells.

        Convolutions of LoHa and of LoKr without a core or a whole w2 say `(out, in * k * k)`: their files do not tell
        the kernel.
        """
        return self._how.shape(self._shapes)

    def rank(self) -> int | None:
        """Return the rank in the file's own sense (alpha is divided by it); None of algorithms and modules without one."""
        return self._how.rank(self._shapes)

    def scale(self) -> float:
        """`alpha / rank`, 1 where there is no alpha or it is no scale.

        Raises:
            BwlabError: alpha is NaN, infinite or 0, which tools read as different scales.

        """
        self._checked_alpha()
        rank = self.rank()
        return 1.0 if self.alpha is None or rank is None else self.alpha / rank

    def factors(self) -> FactoredMatrix | None:
        """Return the delta as a low-rank product, scale folded in, of `(out, in)` or `(out, in * k * k)`.

        Exact for `lora`, `tucker`, `loha` (rank r^2) and `lokr`; None for the others, and where the product would be
        no smaller than the dense delta. Raises `BwlabError` where a number is NaN or infinite.
        """
        from bwlab.linalg.factored import FactoredMatrix

        if self.factored_rank() is None or self._how.factors is None:
            return None
        leaves = self._numbers(None if self._how.factors_are_leaves else np.float64)
        alpha = self._checked_alpha()
        if self._how.svd is not None:
            left, values, right = (np.asarray(one, np.float64) for one in self._how.svd(leaves, alpha))
            return FactoredMatrix.from_svd(left, values, right)
        return FactoredMatrix(*self._how.factors(leaves, alpha))

    def parts(self) -> tuple[Part, ...]:
        """Return the two matrices of a Kronecker product; none of other algorithms."""
        return () if self._how.parts is None else self._how.parts(self._numbers(np.float64))

    def singular_values(self) -> NDArray[np.float64] | None:
        """Of the delta, scale folded in, in no order; None where they are not cheap: not of a low-rank product.

        Raises `BwlabError` where a number is NaN or infinite.
        """
        if self._how.values is not None:
            return np.asarray(self._how.values(self._numbers(np.float64), self._checked_alpha()), np.float64)
        factors = self.factors() if self.algorithm in ("lora", "tucker") else None
        return None if factors is None else factors.singular_values()

    def factored_rank(self) -> int | None:
        """Return the inner rank of `factors`, from the leaves' shapes alone; None where there are no factors."""
        rank, shape = self.rank(), self.shape
        if self._how.factors is None or shape is None:
            return None
        if self.algorithm in ("lora", "tucker"):
            return rank
        inner = (rank or 0) ** 2 if self.algorithm == "loha" else self._kronecker_rank(rank or 0)
        out, columns = shape[0], math.prod(shape[1:])
        return inner if inner * (out + columns) <= out * columns else None

    def delta(self, base_weight: NDArray[np.generic] | None = None, dtype: DTypeLike = np.float64) -> Numbers:
        """Return the change of the weight, scale folded in.

        Args:
            base_weight: the weight that it changes; only some algorithms need it, all take their shape from it.
            dtype: float64 or float32, to compute in.

        Returns:
            An array of the base weight's shape, else of `shape`.

        Raises:
            BwlabError: the base weight is needed and was not given or does not fit, or a number is NaN or infinite.

        """
        if base_weight is None and self.needs_base:
            raise BwlabError(
                f"the delta of {self.path} in {self.source or 'an adapter'}",
                f"{self.algorithm} changes a weight in proportion to itself, and no base model was given",
                "Give the base model that the adapter was trained on",
            )
        base = None if base_weight is None else base_weight.astype(dtype, copy=False)
        if base is not None:
            self._require_fit(base.shape)
        change = self._how.delta(self._numbers(dtype), self._checked_alpha(), base)
        return change if base is None else change.reshape(base.shape)

    def bias_delta(self, dtype: DTypeLike = np.float64) -> Numbers | None:
        """Return the change of the layer's bias `(out,)`, or None if the file has none."""
        found = next((self.leaves[leaf] for leaf in BIAS_LEAVES if leaf in self.leaves), None)
        return None if found is None else found.numbers(dtype)

    @cached_property
    def _how(self) -> Algorithm:
        return ALGORITHMS.get(self.algorithm) or of_a_plugin(self.algorithm)

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        return {leaf: tensor.shape for leaf, tensor in self.leaves.items()}

    def _numbers(self, dtype: DTypeLike | None) -> Leaves:
        return {leaf: tensor.numbers(dtype) for leaf, tensor in self.leaves.items() if leaf in self._how.leaves}

    def _checked_alpha(self) -> float | None:
        is_scale = self.rank() is not None
        if self.alpha is None or (math.isfinite(self.alpha) and not (is_scale and self.alpha == 0)):
            return self.alpha
        meaning = "kohya's trainer reads 0 as the rank, other tools as no effect" if self.alpha == 0 else "no number"
        raise BwlabError(
            f"reading adapter {self.source}", f"alpha of {self.path} is {self.alpha:g}: {meaning}", "Set its alpha"
        )

    def _kronecker_rank(self, rank: int) -> int:
        """Ranks of a Kronecker product's two parts multiply; that of a whole one is its shorter side."""
        parts = [self._shapes.get(f"lokr_w{number}") for number in ("1", "2")]
        return math.prod(rank if part is None else min(part[0], math.prod(part[1:])) for part in parts)

    def _require_fit(self, base_shape: Shape) -> None:
        own = self.shape
        fits = True if own is None else math.prod(own) == math.prod(base_shape) and own[0] == base_shape[0]
        if own is None:
            fits = self._fits_by_leaf(base_shape)
        if not fits:
            wanted = own or {leaf: tensor.shape for leaf, tensor in self.leaves.items()}
            raise BwlabError(
                f"{self.algorithm} of {self.path} in {self.source or 'an adapter'}",
                f"it is for a weight of {wanted}, here {base_shape}",
                "It was made for another architecture: use the base model it was trained on",
            )

    def _fits_by_leaf(self, base_shape: Shape) -> bool:
        """For the algorithms whose leaves tell one side of the weight only."""
        if "oft_blocks" in self.leaves:
            return math.prod(self.leaves["oft_blocks"].shape[-3:-1]) == base_shape[0]
        size = self.leaves["weight"].size
        return size == base_shape[1 if self.leaves["on_input"].read().reshape(-1)[0] else 0]


def can_scale(module: ModuleWeights) -> bool:
    """Whether its delta times any number can be written with the same leaves."""
    return module.algorithm in _LINEAR


def scaled(module: ModuleWeights, factor: float) -> ModuleWeights:
    """Return the module whose deltas, of weight and bias, are `factor` times these.

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
    """Return the module with the same deltas, told with another alpha; itself where its alpha is no scale.

    Raises:
        BwlabError: its alpha is NaN, infinite or 0.

    """
    own = own_alpha(module)
    if own is None or own == alpha == module.alpha:
        return module
    leaves = [] if own == alpha else _linear(module)
    return _with(module, leaves, own / alpha, alpha)


def own_alpha(module: ModuleWeights) -> float | None:
    """Return the alpha by which `alpha / rank` is its scale; None where alpha is no scale, or only a plugin knows."""
    rank = module.rank() if module.algorithm in ALGORITHMS else None
    return None if rank is None else module.scale() * rank


def with_one_alpha(modules: Iterable[ModuleWeights]) -> list[ModuleWeights]:
    """Return the modules with one alpha for all whose alpha is a scale: the commonest one.

    diffusers 0.42 mis-scales files in which modules differ in alpha.
    """
    listed = list(modules)
    alpha = common_alpha(listed)
    return [with_alpha(module, alpha) for module in listed] if alpha is not None else listed


def common_alpha(modules: Iterable[ModuleWeights]) -> float | None:
    """Return the commonest alpha among modules whose alpha is a scale; None if there are none."""
    alphas = Counter(alpha for module in modules if (alpha := own_alpha(module)) is not None)
    return alphas.most_common(1)[0][0] if alphas else None


def with_unit_scale(module: ModuleWeights) -> ModuleWeights:
    """Return the module with alpha equal to its rank, as tools read files that carry no alpha."""
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
