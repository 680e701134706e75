"""What the layers of all types have in common: trained tensors by leaf, and files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bwlab.adapters.layer import AdapterLayer, BaseAwareLayer, BaseLayer, check_rank_and_alpha, weight_shape
from bwlab.adapters.lowrank import geometry_of
from bwlab.config.options import checked_options
from bwlab.errors import BwlabError
from bwlab.formats.algorithms import ALGORITHMS, UnfitLeaves, algorithm_of
from bwlab.formats.algorithms.algorithm import shapes_of
from bwlab.formats.keys import ALPHA
from bwlab.formats.torch_tensors import lazy_tensor
from bwlab_lycoris.fresh import fresh_tensors
from bwlab_lycoris.kinds import LYCORIS_KINDS


class LycorisLayer(AdapterLayer):
    """A layer with the tensors of a LyCORIS module, each of which is trained.

    Attributes:
        type_name: name of the adapter type and of the algorithm of its files.
        weights: leaf name, with `_` in place of a dot -> tensor.

    """

    type_name: ClassVar[str]
    weights: nn.ParameterDict

    def __init__(self, layer: BaseLayer, tensors: Mapping[str, Tensor], alpha: float | None) -> None:
        super().__init__()
        self._geometry = geometry_of(layer)
        self.weight_shape = weight_shape(layer)
        self._leaves = tuple(tensors)
        self.weights = nn.ParameterDict({_name(leaf): nn.Parameter(tensor) for leaf, tensor in tensors.items()})
        rank = ALGORITHMS[self.type_name].rank(shapes_of_tensors(tensors))
        self.rank = self.rank_of(tensors, alpha) if rank is None else rank
        self.alpha = float(self.rank) if alpha is None else alpha
        self.scale = 1.0 if rank is None else self.alpha / rank

    @classmethod
    def create(
        cls, layer: BaseLayer, rank: int, alpha: float, generator: torch.Generator | None, **options: object
    ) -> Self:
        """Return a new float32 layer on the layer's device, with the numbers of LyCORIS' own; see `LYCORIS_KINDS`."""
        check_rank_and_alpha(rank, alpha)
        kind = LYCORIS_KINDS[cls.type_name]
        given = checked_options(kind.name, kind.options, options, lambda name, value: f"option {name} = {value}")
        return cls.from_tensors(layer, fresh_tensors(kind, layer, rank, alpha, generator, given))

    @classmethod
    def from_tensors(cls, layer: BaseLayer, tensors: Mapping[str, Tensor]) -> Self:
        """Return the layer with these tensors, named as in LyCORIS' files."""
        leaves = {leaf: tensor.detach().clone() for leaf, tensor in tensors.items() if leaf != ALPHA}
        require_fit(cls.type_name, layer, leaves)
        return cls(layer, leaves, float(tensors[ALPHA]) if ALPHA in tensors else None)

    @classmethod
    def network(cls) -> tuple[str, Mapping[str, str]]:
        """Return kohya's name of LyCORIS, and the arguments that select this type."""
        return "lycoris.kohya", LYCORIS_KINDS[cls.type_name].arguments

    def leaf(self, leaf: str) -> Tensor:
        """Return the parameter of a leaf."""
        parameter: Tensor = self.weights[_name(leaf)]
        return parameter

    def rank_of(self, tensors: Mapping[str, Tensor], alpha: float | None) -> int:
        """Return the rank where the algorithm divides alpha by none."""
        raise NotImplementedError(self.type_name)

    def tensors(self) -> dict[str, Tensor]:
        """Return leaf name -> tensor, and alpha."""
        own = {leaf: self.leaf(leaf).detach() for leaf in self._leaves}
        return own | {ALPHA: torch.tensor(self.alpha)}

    def file_tensors(self, alpha: float) -> dict[str, Tensor]:
        """Return the tensors of the same delta with another alpha, where alpha is a scale."""
        return with_alpha(self.type_name, self.tensors(), self.alpha, alpha)


class ProductLayer(LycorisLayer):
    """A layer whose change of the weight is a product of its tensors alone, `change`, with its operation, `part`."""

    @abstractmethod
    def change(self) -> Tensor:
        """Return the change of the weight, of shape `weight_shape`."""

    @abstractmethod
    def part(self, x: Tensor) -> Tensor:
        """Return the layer's operation with `change` as its weight."""

    def forward(self, x: Tensor, base_output: Tensor) -> Tensor:
        """Return the tensor that is added at scale 1, of `base_output`'s shape."""
        return self.part(x)

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """Return the change of the weight; the base weight is not needed."""
        return self.change()


class BaseAwareLycorisLayer(LycorisLayer, BaseAwareLayer):
    """A layer of a type whose delta depends on the weight that it changes."""


def recomputed(operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return `operation(x)`, of whose steps the backward pass keeps x alone and computes the others anew."""
    output: Tensor = checkpoint(operation, x, use_reentrant=False, preserve_rng_state=False)
    return output


def require_fit(type_name: str, layer: BaseLayer, leaves: Mapping[str, Tensor]) -> None:
    """Raise `BwlabError` unless the leaves are those of one module of this type, for a weight of this shape."""
    asked = f"{type_name} on a weight of shape {weight_shape(layer)}"
    lazy = {leaf: lazy_tensor(tensor, leaf) for leaf, tensor in leaves.items()}
    algorithm = algorithm_of(shapes_of(lazy))
    if algorithm is None or algorithm.name != type_name or not algorithm.leaves >= lazy.keys():
        made_of = ", ".join(LYCORIS_KINDS[type_name].leaves)
        raise BwlabError(asked, f"tensors {', '.join(sorted(leaves)) or 'none'}", f"It is made of {made_of}")
    try:
        algorithm.shape(shapes_of(lazy))
        fits = algorithm.fits(lazy, weight_shape(layer))
    except (UnfitLeaves, KeyError, ValueError, IndexError) as error:
        raise BwlabError(asked, f"its tensors do not fit each other: {error}", "Give a whole adapter file") from error
    if not fits:
        found = ", ".join(f"{leaf} {tuple(tensor.shape)}" for leaf, tensor in leaves.items())
        raise BwlabError(asked, found, "This adapter was made for another model")


def with_alpha(type_name: str, tensors: dict[str, Tensor], own: float, alpha: float) -> dict[str, Tensor]:
    """Return the tensors of the same delta with another alpha; unchanged where alpha is no scale."""
    algorithm = ALGORITHMS[type_name]
    leaves = {leaf: tensor for leaf, tensor in tensors.items() if leaf != ALPHA}
    if alpha == own or algorithm.rank(shapes_of_tensors(leaves)) is None:
        return tensors
    scaled = {leaf: tensors[leaf] * (own / alpha) for leaf in algorithm.linear_leaves(leaves)}
    return tensors | scaled | {ALPHA: torch.tensor(alpha)}


def shapes_of_tensors(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {leaf: tuple(tensor.shape) for leaf, tensor in tensors.items()}


def _name(leaf: str) -> str:
    return leaf.replace(".", "_")
