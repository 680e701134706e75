"""Modules of files whose delta the layer of a plugin's adapter type computes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn

from bwlab.adapters.layer import AdapterLayer, BaseLayer
from bwlab.adapters.types import AdapterType
from bwlab.errors import BwlabError, first_line
from bwlab.formats.algorithms.algorithm import Shape
from bwlab.formats.keys import ALPHA
from bwlab.formats.modules import ModuleWeights, WeightReader
from bwlab.formats.tensors import LazyTensor, Numbers, is_float
from bwlab.formats.torch_tensors import torch_tensor
from bwlab.linalg.factored import Array, FactoredMatrix

Returned = TypeVar("Returned")

ADVICE = "Report it to the author of the plugin"
OTHER_BASE = "Use the base model that it was trained on"


def typed_module(module: ModuleWeights, adapter_type: AdapterType, plugin: str) -> TypedModule:
    """Return a module of a file whose delta a plugin's adapter type computes.

    Args:
        module: the module as it was read.
        adapter_type: the type that its file names.
        plugin: the plugin of the type, for messages: `"plugin my-lora of bwlab-my-lora 0.1.0"`.

    """
    fields = {entry.name: getattr(module, entry.name) for entry in dataclasses.fields(ModuleWeights)}
    return TypedModule(**fields, adapter_type=adapter_type, plugin=plugin)


@dataclass(frozen=True, eq=False)
class TypedModule(ModuleWeights):
    """A module of a plugin's adapter type.

    Each call makes the type's layer from the leaves and asks it for `factors()` or `delta()`. The layer is made on a
    stand-in of the base layer, whose weight is the base weight if there is one; otherwise it has the shape that the
    file records and is zero.

    Attributes:
        adapter_type: the adapter type.
        plugin: the plugin that registers the type, for messages.

    """

    adapter_type: AdapterType = field(kw_only=True)
    plugin: str = field(kw_only=True)

    @property
    def has_delta(self) -> bool:
        """Whether the delta can be computed: the plugin computes it."""
        return True

    @property
    def needs_base(self) -> bool:
        """Whether `delta` needs the base weight."""
        return self.adapter_type.needs_base_weight

    def listed_rank(self) -> int | None:
        """Return the rank of the type's layer; None if the file does not record the shape of the weight."""
        return None if self.weight_shape is None else self._rank

    @cached_property
    def _rank(self) -> int:
        return int(self._layer(None).rank)

    def matrix(self, weight_of: WeightReader | None = None) -> FactoredMatrix | Array:
        """Return the delta as a matrix: the type's factors if it has any, else dense; see `ModuleWeights.matrix`."""
        reads_base = self.needs_base or self.weight_shape is None
        weight = weight_of(self.path) if weight_of is not None and reads_base else None
        factors = None if weight is None and self.weight_shape is None else self._factors(self._layer(weight))
        if factors is not None:
            return factors
        delta = np.asarray(self.delta(weight), np.float64)
        return delta.reshape(len(delta), -1)

    def factors(self) -> FactoredMatrix | None:
        """Return the type's factors; None if it has none, or if only the base determines the shape of the weight."""
        return None if self.weight_shape is None else self._factors(self._layer(None))

    def factored_rank(self) -> int | None:
        """Return the inner rank of `factors`; None if there are none."""
        factors = self.factors()
        return None if factors is None else factors.inner_rank

    def singular_values(self) -> NDArray[np.float64] | None:
        """Return the singular values of the factors; None if there are none."""
        factors = self.factors()
        return None if factors is None else factors.singular_values()

    def bias_leaf(self) -> LazyTensor | None:
        """Return None: adapter types change weights only."""
        return None

    def delta(self, base_weight: NDArray[np.generic] | None = None, dtype: DTypeLike = np.float64) -> Numbers:
        """Return the result of the type's `delta()`; see `ModuleWeights.delta`.

        The plugin computes in float32, or in float64 if a leaf is stored so.

        Raises:
            BwlabError: as for `ModuleWeights.delta`, or the plugin raises an error or returns something else.

        """
        if base_weight is None and (self.needs_base or self.weight_shape is None):
            why = "depends on the weight that it changes" if self.needs_base else "has a shape that only the base tells"
            found = f"a delta of adapter type {self.algorithm} {why}, and no base model was given"
            fix = "Give the base model that the adapter was trained on"
            raise BwlabError(f"the delta of {self.path} in {self.source}", found, fix)
        layer, weight = self._layer(base_weight), None
        if base_weight is not None and self.needs_base:
            weight = torch.from_numpy(np.array(base_weight)).to(self._dtype)
        change = self._asked("delta()", lambda: layer.delta(weight))
        if not isinstance(change, Tensor):
            raise self._wrong("delta()", f"returned {type(change).__name__}, not a tensor")
        if tuple(change.shape) != tuple(layer.weight_shape):
            raise self._wrong("delta()", f"returned shape {tuple(change.shape)}, not {tuple(layer.weight_shape)}")
        numbers = change.detach().to("cpu", torch.float64).numpy()
        if not np.isfinite(numbers).all():
            raise self._wrong("delta()", "returned NaN or infinity")
        return numbers.astype(dtype, copy=False)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if any(leaf.dtype == "F64" for leaf in self.leaves.values()) else torch.float32

    def _layer(self, weight: NDArray[np.generic] | None) -> AdapterLayer:
        """Return the type's layer on the stand-in of a base layer."""
        shape = self.weight_shape if weight is None else weight.shape
        assert shape is not None
        if self.weight_shape not in (None, shape):
            found = f"it is for a weight of {self.weight_shape}, here {shape}"
            raise BwlabError(f"{self.algorithm} of {self.path} in {self.source}", found, OTHER_BASE)
        base, tensors = stand_in(shape, weight), self._tensors()
        layer = self._asked("from_tensors()", lambda: self.adapter_type.load().from_tensors(base, tensors))
        if not isinstance(layer, AdapterLayer):
            raise self._wrong("from_tensors()", f"returned {type(layer).__name__}, not an AdapterLayer")
        return layer

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for name, leaf in self.leaves.items():
            leaf.numbers()  # raises for NaN and infinity
            value = torch_tensor(leaf)
            tensors[name] = value.to(self._dtype) if is_float(leaf.dtype) else value
        return tensors if self.alpha is None else {**tensors, ALPHA: torch.tensor(self.alpha)}

    def _factors(self, layer: AdapterLayer) -> FactoredMatrix | None:
        factors = self._asked("factors()", layer.factors)
        if factors is None:
            return None
        if not isinstance(factors, FactoredMatrix):
            raise self._wrong("factors()", f"returned {type(factors).__name__}, not a FactoredMatrix")
        wanted = (layer.weight_shape[0], math.prod(layer.weight_shape[1:]))
        if factors.shape != wanted:
            raise self._wrong("factors()", f"returned a product of shape {factors.shape}, not {wanted}")
        if not all(np.isfinite(part).all() for part in (factors.up, factors.down)):
            raise self._wrong("factors()", "returned NaN or infinity")
        return factors

    def _asked(self, call: str, function: Callable[[], Returned]) -> Returned:
        """Return the result of a function of the plugin; `BwlabError` that names the plugin if it raises an error."""
        try:
            with torch.no_grad():
                return function()
        except (Exception, SystemExit) as error:  # foreign code: its errors get one line like all others
            text = f"{type(error).__name__}: {first_line(error)}"
            if isinstance(error, BwlabError):
                text = f"{error.asked}: {error.found}"
            raise self._wrong(call, f"raised {text}") from error

    def _wrong(self, call: str, found: str) -> BwlabError:
        asked = f"{self.path} in {self.source}"
        return BwlabError(asked, f"{call} of adapter type {self.algorithm} ({self.plugin}) {found}", ADVICE)


def stand_in(shape: Shape, weight: NDArray[np.generic] | None = None) -> BaseLayer:
    """Return a Linear or a Conv2d without a bias to make an adapter layer on.

    Args:
        shape: the shape of the weight, `(out, in)` or `(out, in, k, k)`.
        weight: the numbers of the weight; None for zeros, which take no memory.

    """
    if len(shape) not in (2, 4):
        raise BwlabError(f"an adapter layer on a weight of shape {shape}", "no such layer can be adapted", OTHER_BASE)
    numbers = torch.zeros(()).expand(shape) if weight is None else torch.from_numpy(np.array(weight, np.float32))
    out, inner, *kernel = shape
    layer: BaseLayer
    if kernel:
        size = (kernel[0], kernel[1])
        padding = (size[0] // 2, size[1] // 2)
        layer = nn.Conv2d(inner, out, size, padding=padding, bias=False, device="meta")
    else:
        layer = nn.Linear(inner, out, bias=False, device="meta")
    layer.weight = nn.Parameter(numbers, requires_grad=False)
    return layer
