"""Adapter types, as plugins register them.

An `AdapterType` is a description that costs nothing to import; its functions import torch when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from bwlab.adapters.layer import AdapterLayer, BaseLayer


Options: TypeAlias = Mapping[str, object]
# (options from the user, layers to be adapted by path) -> the options of each layer, by path.
PrepareOptions: TypeAlias = Callable[[Options, Mapping[str, "BaseLayer"]], Mapping[str, Options]]


@dataclass(frozen=True)
class AdapterType:
    """A kind of adapter, selected with `--adapter NAME`.

    Attributes:
        name: the name, such as `"lora"`; unique among all installed plugins.
        summary: a description for lists, in one line.
        leaves: the endings of its keys in a file, e.g. `("lora_down.weight", "lora_up.weight", "alpha")`.
        needs_base_weight: whether `delta()` needs the weight of the adapted layer.
        load: function that returns the layer class; imports torch only when called.
        targets: (path in the model, kind) -> whether the layer is adapted; kinds are `"linear"`, `"conv"` and
            `"conv1x1"`.
        options: names of the options that a user may give beyond rank and alpha.
        prepare: function from the user's options to the options of each layer's `create()`; None: all layers get the
            user's options.
        splits_outputs: whether it divides the outputs of a layer into blocks of equal size, as OFT does; its contract
            is then checked on layers whose numbers of outputs are powers of 2 in place of primes.

    """

    name: str
    summary: str
    leaves: tuple[str, ...]
    needs_base_weight: bool
    load: Callable[[], type[AdapterLayer]]
    targets: Callable[[str, str], bool]
    options: tuple[str, ...] = ()
    prepare: PrepareOptions | None = None
    splits_outputs: bool = False
