"""Tensors out of single-file checkpoints and back into them, at the places that `bwlab.formats.ldm_keys` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bwlab.formats.ldm_keys import Place, by_key


def from_ldm(places: Mapping[str, Place], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Return a component's tensors by name, each with memory of its own.

    Args:
        places: of the tensors.
        read: a tensor of the file, by its key.
    """
    return {name: _taken(read(place.key), place) for name, place in places.items()}


def _taken(tensor: Tensor, place: Place) -> Tensor:
    if place.third is not None:
        tensor = tensor.chunk(3)[place.third]
    if place.transposed:
        tensor = tensor.T
    if place.pointwise:
        tensor = tensor.flatten(1)
    return tensor.clone(memory_format=torch.contiguous_format)


def shape_in_file(place: Place, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the file's tensor at a place, for a model's tensor of this shape."""
    if place.third is not None:
        return (3 * shape[0], *shape[1:])
    if place.transposed:
        return shape[::-1]
    return (*shape, 1, 1) if place.pointwise else shape


def fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether a file's shape is the wanted one, but for 1 x 1 kernels that some tools drop or add."""
    return _without_kernel(found) == _without_kernel(wanted)


def _without_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape


def to_ldm(places: Mapping[str, Place], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the file's tensors by key, the inverse of `from_ldm`.

    Args:
        places: of the tensors.
        state: a component's tensors by name, every one that has a place.
    """
    return {key: _put([state[name] for name in names], places[names[0]]) for key, names in by_key(places).items()}


def _put(tensors: list[Tensor], place: Place) -> Tensor:
    tensor = torch.cat(tensors) if place.third is not None else tensors[0]
    if place.transposed:
        tensor = tensor.T
    if place.pointwise:
        tensor = tensor[..., None, None]
    return tensor.detach().contiguous()
