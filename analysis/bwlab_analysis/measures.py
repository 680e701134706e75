"""The types that measures share: descriptions from plugins, values beside their null, and the blame of blocks.

Plugins return block metrics, conflict measures and fidelity scorers, as descriptions that are cheap to import.
Metrics of weights work in two steps, so that no command ever holds all modules of two adapters: `of_module` reduces
one module to a few numbers, `of_block` combines the numbers of all modules of a block (or a cell, a module
kind, the whole adapter) into one value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab.linalg.factored import Spectrum
    from bwlab.linalg.pair import FactorPair


Parts: TypeAlias = Mapping[str, float]
"""The numbers that `of_module` reduces a module to; the names are the metric's own."""

PREDICTION = "prediction"
"""The UNet's output, beside the outputs of its blocks."""
ALL_TIMES = "all"
"""Every timestep together."""

BlockAtTimestep: TypeAlias = tuple[str, int | str]
"""A block (or `PREDICTION`) at a timestep (or over `ALL_TIMES`)."""

SCHEMA_VERSION = 2

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True)
class Measured:
    """A measured number with the value of random adapters to compare it with.

    Attributes:
        value: the measured value.
        random: mean value of random adapters of the same shapes and norms; None where it has no meaning.
        random_sd: standard deviation of the values of random adapters; None if it is unknown.
        details: further numbers for `--json`, by name.

    """

    value: float
    random: float | None = None
    random_sd: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)


def _finite(measured: Measured | None) -> Measured | None:
    if measured is None:
        return None
    numbers = (measured.value, measured.random or 0.0, measured.random_sd or 0.0, *measured.details.values())
    return measured if all(map(math.isfinite, numbers)) else None


@dataclass(frozen=True)
class BlockMetric:
    """A number about one adapter's weights for each block: a column of `bwlab analyze norms`.

    Attributes:
        name: column head and JSON key, e.g. `"effective_rank"`; unique among all plugins.
        summary: one line that explains the number.
        of_module: function that reduces the spectrum of a module's delta; returns None for no answer (a zero delta).
        of_block: function that combines the numbers of at least one module.

    """

    name: str
    summary: str
    of_module: Callable[[Spectrum], Parts | None]
    of_block: Callable[[Sequence[Parts]], Measured | None]

    def value_of(self, modules: Sequence[Parts]) -> Measured | None:
        """Return the value of these modules together; None without modules, or if the value is not finite."""
        return _finite(self.of_block(modules)) if modules else None


@dataclass(frozen=True)
class ConflictMeasure:
    """A number about two adapters' weights for each block: a column of `bwlab analyze conflict`.

    Attributes:
        name: column head and JSON key, e.g. `"cosine"`; unique among all plugins.
        summary: one line that explains the number.
        of_pair: function that reduces the pair of a module's two deltas; returns None for no answer.
        of_block: function that combines the numbers of at least one module that both adapters change.
        slow: whether it is measured only with a separate option (`--signs`), because it multiplies the deltas out.

    """

    name: str
    summary: str
    of_pair: Callable[[FactorPair], Parts | None]
    of_block: Callable[[Sequence[Parts]], Measured | None]
    slow: bool = False

    def value_of(self, modules: Sequence[Parts]) -> Measured | None:
        """Return the value of these modules together; None without modules, or if the value is not finite."""
        return _finite(self.of_block(modules)) if modules else None


@dataclass(frozen=True)
class FidelityScorer:
    """A score of generated images: a column of `bwlab analyze fidelity`.

    Attributes:
        name: e.g. `"clip_identity"`; unique among all plugins.
        kind: `"identity"` and `"style"` compare with reference images, `"text"` with prompts.
        summary: one line that explains the score.
        load: function that returns the scorer and imports its models only when called. The scorer takes (generated,
            references), or (generated, prompts) with one prompt for each image, and returns one score per generated
            image; a higher score means more similar.

    """

    name: str
    kind: Literal["identity", "style", "text"]
    summary: str
    load: Callable[[], Callable[[Sequence[Image], Sequence[Any]], list[float]]]


@dataclass(frozen=True)
class BlockBlame:
    """The effect of switching off one block of one adapter while both adapters act.

    Attributes:
        adapter: `"a"` or `"b"`, the adapter of the block.
        block: name of the block.
        gain: effect that the other adapter gets back, as a share of its effect alone; below 0 if it loses effect.
        loss: effect that its own adapter loses, as a share too; None if it was not measured.

    """

    adapter: str
    block: str
    gain: float
    loss: float | None


def worst_first(blame: Sequence[BlockBlame]) -> tuple[BlockBlame, ...]:
    """Return blame sorted by the gain of the other adapter, largest first."""
    return tuple(sorted(blame, key=lambda block: -block.gain))
