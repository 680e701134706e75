"""The types that measures have in common: what plugins give, values beside their null, and the blame of blocks.

Plugins give block metrics, conflict measures and fidelity scorers, as descriptions that cost nothing to import.
Metrics of weights work in two steps, so that no command ever holds all modules of two adapters: `of_module` reduces
one module to a few numbers, `of_block` makes one value of the numbers of all modules of a block (or a cell, a module
kind, the whole adapter).
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
    """A number with its scale.

    Attributes:
        value: what was measured.
        random: what random adapters of the same shapes and norms give; None where that makes no sense.
        random_sd: the standard deviation of what they give; None where it is not known.
        details: more numbers for `--json`, by name.

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
    """A number about one adapter's weights, per block: a column of `bwlab analyze norms`.

    Attributes:
        name: column head and JSON key, e.g. `"effective_rank"`; unique among all plugins.
        summary: one line that says how to read it.
        of_module: reduces the spectrum of a module's delta; None where it has no answer (a zero delta).
        of_block: one value from the numbers of at least one module.

    """

    name: str
    summary: str
    of_module: Callable[[Spectrum], Parts | None]
    of_block: Callable[[Sequence[Parts]], Measured | None]

    def value_of(self, modules: Sequence[Parts]) -> Measured | None:
        """Return the value of these modules together; None of no modules, and where the value is not finite."""
        return _finite(self.of_block(modules)) if modules else None


@dataclass(frozen=True)
class ConflictMeasure:
    """A number about two adapters' weights, per block: a column of `bwlab analyze conflict`.

    Attributes:
        name: column head and JSON key, e.g. `"cosine"`; unique among all plugins.
        summary: one line that says how to read it.
        of_pair: reduces the pair of a module's two deltas; None where it has no answer.
        of_block: one value from the numbers of at least one module that both adapters change.
        slow: asked for by its own option only (`--signs`), as it multiplies the deltas out.

    """

    name: str
    summary: str
    of_pair: Callable[[FactorPair], Parts | None]
    of_block: Callable[[Sequence[Parts]], Measured | None]
    slow: bool = False

    def value_of(self, modules: Sequence[Parts]) -> Measured | None:
        """Return the value of these modules together; None of no modules, and where the value is not finite."""
        return _finite(self.of_block(modules)) if modules else None


@dataclass(frozen=True)
class FidelityScorer:
    """Scores generated images: a column of `bwlab analyze fidelity`.

    Attributes:
        name: e.g. `"clip_identity"`; unique among all plugins.
        kind: what it scores: `"identity"` and `"style"` compare with reference images, `"text"` with prompts.
        summary: one line that says how to read it.
        load: returns the scorer, importing its models only then; it gives one score per generated image from
            (generated, references), or from (generated, prompts), one for each: higher is more alike.

    """

    name: str
    kind: Literal["identity", "style", "text"]
    summary: str
    load: Callable[[], Callable[[Sequence[Image], Sequence[Any]], list[float]]]


@dataclass(frozen=True)
class BlockBlame:
    """What switching one block of one adapter off does, both adapters being on.

    Attributes:
        adapter: `"a"` or `"b"`: whose block it is.
        block: the block.
        gain: what the other adapter gets back, as a share of its effect alone; below 0 if it loses.
        loss: what its own adapter loses, likewise; None where that was not measured.

    """

    adapter: str
    block: str
    gain: float
    loss: float | None


def worst_first(blame: Sequence[BlockBlame]) -> tuple[BlockBlame, ...]:
    """Return blame sorted by what the other adapter gets back, the most first."""
    return tuple(sorted(blame, key=lambda block: -block.gain))
