"""An adapted module of a file: its leaves, read on demand, and the change of the weight that they represent."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bwlab.errors import BrokenFileError, BwlabError
from bwlab.formats.algorithms import ALGORITHMS, algorithm_named
from bwlab.formats.algorithms.algorithm import Algorithm, Leaves, Shape, shapes_of
from bwlab.formats.algorithms.full import BIAS_LEAVES
from bwlab.formats.tensors import LARGEST, LazyTensor, Numbers, exactly
from bwlab.linalg.factored import Array, FactoredMatrix, Part

# A function from an adapter path to the weight of that layer in a base model.
WeightReader: TypeAlias = Callable[[str], NDArray[np.floating]]


@dataclass(frozen=True, eq=False)
class ModuleWeights:
    """An adapted module.

    Attributes:
        path: the diffusers module path in the UNet; `te.<path>` / `te2.<path>` in text encoders.
        algorithm: `"lora"` (linear and conv), `"tucker"`, `"dora"`, `"dora-tucker"`, `"loha"`, `"doha"`, `"lokr"`,
            `"dokr"`, `"oft"`, `"boft"`, `"glora"`, `"ia3"`, `"full"` or `"norm"`; or the name of an adapter type of a
            plugin, whose delta only that plugin computes.
        leaves: canonical leaf name (kohya's and LyCORIS', `"lora_down.weight"`) -> tensor; without alpha.
        alpha: the alpha of the file, or None; for `oft` and `boft` it is the constraint, which is not a scale.
        source: the file, for messages.
        weight_shape: the shape of the changed weight, if the metadata of the file records it; else None.

    """

    path: str
    algorithm: str
    leaves: Mapping[str, LazyTensor]
    alpha: float | None
    source: str = ""
    weight_shape: Shape | None = None

    @property
    def has_delta(self) -> bool:
        """Whether the delta can be computed; False for an adapter type that no installed plugin registers."""
        return self.algorithm in ALGORITHMS

    @property
    def needs_base(self) -> bool:
        """Whether `delta` needs the base weight."""
        return self._algorithm.needs_base

    @property
    def is_product(self) -> bool:
        """Whether the delta is zero as soon as one leaf is zero."""
        return self._algorithm.is_product

    @property
    def is_lora(self) -> bool:
        """Whether the module consists of an up and a down, with or without a Tucker core between them."""
        return self.algorithm in ("lora", "tucker")

    @cached_property
    def shape(self) -> Shape | None:
        """The delta's shape: `(out, in)`, `(out, in, k, k)`, `(channels,)` for a norm; None if only the base has it.

        Convolutions of LoHa, and of LoKr without a core or a whole w2, have `(out, in * k * k)`: their files do not
        contain the size of the kernel.
        """
        return self.weight_shape or self._algorithm.shape(self._shapes)

    def rank(self) -> int | None:
        """Return the rank by which alpha is divided; None for algorithms and modules without a rank."""
        return self._algorithm.rank(self._shapes)

    def listed_rank(self) -> int | None:
        """Return the rank to show for the module: `rank`, or the rank in the sense of a plugin's adapter type."""
        return self.rank()

    def scale(self) -> float:
        """Return `alpha / rank`; 1 if there is no alpha or alpha is not a scale.

        Raises:
                BrokenFileError: alpha is NaN, infinite or 0, which different tools interpret differently.

        """
        self._checked_alpha()
        rank = self.rank()
        return 1.0 if self.alpha is None or rank is None else self.alpha / rank

    def matrix(self, weight_of: WeightReader | None = None) -> FactoredMatrix | Array:
        """Return the delta as a matrix, including the scale: its factors if it has any, else dense, in float64.

        Callers that need a delta as a matrix use this method, and distinguish the two forms with `isinstance`.

        Args:
            weight_of: a function that reads the base weight, if the delta needs it; None if there is no base model.

        Returns:
            A matrix `(out, in)`; for a convolution, `(out, in * k * k)`.

        Raises:
            BwlabError: the delta needs a base weight and there is none, or a number is NaN or infinite.

        """
        factors = self.factors()
        if factors is not None:
            return factors
        weight = weight_of(self.path) if weight_of is not None and self.needs_base else None
        delta = np.asarray(self.delta(weight), np.float64)
        return delta.reshape(len(delta), -1)

    def factors(self) -> FactoredMatrix | None:
        """Return the delta as a low-rank product `(out, in)` or `(out, in * k * k)`, including the scale.

        Exact for `lora`, `tucker`, `loha` (rank r^2) and `lokr`; None for the others, and where the product would be
        no smaller than the dense delta. Raises `BrokenFileError` where a number is NaN or infinite.
        """
        if self.factored_rank() is None:
            return None
        return self._algorithm.factors(self._numbers(self._algorithm.factor_dtype), self._checked_alpha())

    def factored_rank(self) -> int | None:
        """Return the inner rank of `factors`, from the leaves' shapes alone; None if there are no factors."""
        return self._algorithm.factored_rank(self._shapes)

    def kronecker_parts(self) -> tuple[Part, ...]:
        """Return the two matrices whose Kronecker product is the delta; an empty tuple for other algorithms."""
        return self._algorithm.kronecker_parts(self._numbers(np.float64)) if self._algorithm.is_kronecker else ()

    def singular_values(self) -> NDArray[np.float64] | None:
        """Return the delta's singular values in any order, including the scale; None if only the dense SVD gives them.

        Raises `BrokenFileError` where a number is NaN or infinite.
        """
        if self._algorithm.is_kronecker:
            values = self._algorithm.singular_values(self._numbers(np.float64), self._checked_alpha())
            return np.asarray(values, np.float64)
        factors = self.factors() if self.is_lora else None
        return None if factors is None else factors.singular_values()

    def delta(self, base_weight: NDArray[np.generic] | None = None, dtype: DTypeLike = np.float64) -> Numbers:
        """Return the change of the weight, including the scale.

        Args:
            base_weight: the weight that is changed; only some algorithms need it, all take the shape from it.
            dtype: the dtype of the computation, float64 or float32.

        Returns:
            An array with the shape of the base weight, or with `shape` if none is given.

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
        change = self._algorithm.delta(self._numbers(dtype), self._checked_alpha(), base)
        return change if base is None else change.reshape(base.shape)

    def bias_delta(self, dtype: DTypeLike = np.float64) -> Numbers | None:
        """Return the change of the layer's bias `(out,)`, or None if the file has none."""
        bias = self.bias_leaf()
        return None if bias is None else bias.numbers(dtype)

    def bias_leaf(self) -> LazyTensor | None:
        """Return the leaf that changes the layer's bias, or None if the file has none."""
        return next((self.leaves[leaf] for leaf in BIAS_LEAVES if leaf in self.leaves), None)

    @cached_property
    def _algorithm(self) -> Algorithm:
        return algorithm_named(self.algorithm)

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        return shapes_of(self.leaves)

    def _numbers(self, dtype: DTypeLike | None) -> Leaves:
        return {leaf: tensor.numbers(dtype) for leaf, tensor in self.leaves.items() if leaf in self._algorithm.leaves}

    def _checked_alpha(self) -> float | None:
        is_scale = self.rank() is not None
        if self.alpha is None or (abs(self.alpha) <= LARGEST and not (is_scale and self.alpha == 0)):
            return self.alpha
        meaning = "too large" if math.isfinite(self.alpha) else "no number"
        if self.alpha == 0:
            meaning = "kohya's trainer reads 0 as the rank, other tools as no effect"
        raise BrokenFileError(
            f"reading adapter {self.source}", f"alpha of {self.path} is {self.alpha:g}: {meaning}", "Set its alpha"
        )

    def _require_fit(self, weight: Shape) -> None:
        if not self._algorithm.fits(self.leaves, weight):
            raise BwlabError(
                f"{self.algorithm} of {self.path} in {self.source or 'an adapter'}",
                f"it is for a weight of {self.shape or self._shapes}, here {weight}",
                "It was made for another architecture: use the base model it was trained on",
            )


def can_scale(module: ModuleWeights) -> bool:
    """Return whether the delta of a module times any number can be written with the same leaves."""
    return module.algorithm in ALGORITHMS and ALGORITHMS[module.algorithm].is_linear


def scaled_module(module: ModuleWeights, factor: float) -> ModuleWeights:
    """Return the module with the deltas of weight and bias multiplied by `factor`.

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
    """Return the module with the same delta and another alpha; a factor absorbs the difference.

    A module whose alpha is not a scale is returned unchanged.

    Raises:
        BwlabError: the alpha of the module is NaN, infinite or 0.

    """
    own = own_alpha(module)
    if own is None or own == alpha == module.alpha:
        return module
    leaves = () if own == alpha else _linear(module)
    return _with(module, leaves, own / alpha, alpha)


def own_alpha(module: ModuleWeights) -> float | None:
    """Return the alpha for which `alpha / rank` is the scale; None if alpha is no scale or only a plugin knows it."""
    rank = module.rank() if module.algorithm in ALGORITHMS else None
    if rank is None:
        return None
    module.scale()  # checks alpha
    return float(rank) if module.alpha is None else module.alpha


def with_one_alpha(modules: Iterable[ModuleWeights]) -> list[ModuleWeights]:
    """Return the modules with the commonest alpha in every module whose alpha is a scale.

    diffusers 0.42 mis-scales files whose modules have different alphas.
    """
    listed = list(modules)
    alpha = common_alpha(listed)
    return [with_alpha(module, alpha) for module in listed] if alpha is not None else listed


def common_alpha(modules: Iterable[ModuleWeights]) -> float | None:
    """Return the commonest alpha among modules whose alpha is a scale; None if there are none."""
    alphas = Counter(alpha for module in modules if (alpha := own_alpha(module)) is not None)
    return alphas.most_common(1)[0][0] if alphas else None


def with_unit_scale(module: ModuleWeights) -> ModuleWeights:
    """Return the module with alpha equal to its rank, which is how tools read files without alphas."""
    rank = module.rank()
    return module if rank is None else with_alpha(module, float(rank))


def _linear(module: ModuleWeights) -> tuple[str, ...]:
    return ALGORITHMS[module.algorithm].linear_leaves(module.leaves)


def _with(module: ModuleWeights, leaves: Iterable[str], factor: float, alpha: float | None) -> ModuleWeights:
    changed = {leaf: _times(module.leaves[leaf], factor) for leaf in leaves}
    return dataclasses.replace(module, leaves={**module.leaves, **changed}, alpha=alpha)


def _times(tensor: LazyTensor, factor: float) -> LazyTensor:
    wide = np.float64 if tensor.dtype == "F64" else np.float32
    with np.errstate(over="ignore"):
        product: Numbers = (tensor.numbers(np.float64) * factor).astype(wide)
    if not np.isfinite(product).all():
        found = f"{tensor.key} times {factor:.3g} is too large for {np.dtype(wide).name}"
        raise BrokenFileError(f"reading adapter {tensor.source}", found, "Check its alpha and how it was made")
    return exactly(product, tensor.dtype, tensor.key)
