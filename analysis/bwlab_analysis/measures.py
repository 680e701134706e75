"""The types that measures share: descriptions from plugins, values beside their null, and the blame of blocks.

Plugins return block metrics, conflict measures and fidelity scorers, as descriptions that are cheap to import.
Metrics of weights work in two steps, so that no command ever holds all modules of two adapters: `of_module` reduces
one module to a few numbers, `of_block` combines the numbers of all modules of a block (or a cell, a module
kind, the whole adapter) into one value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, TypeAlias, get_args

from bwlab.errors import BwlabError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab.linalg.factored import Spectrum
    from bwlab.linalg.pair import FactorPair


Parts: TypeAlias = Mapping[str, float]
"""The numbers that `of_module` reduces a module to; the names are the metric's own."""

PREDICTION = "prediction"
"""The UNet's output, beside the outputs of its blocks."""
ALL_TIMES = "all"
"""All timesteps together."""

BlockAtTimestep: TypeAlias = tuple[str, int | str]
"""A block (or `PREDICTION`) at a timestep (or over `ALL_TIMES`)."""

ScorerKind: TypeAlias = Literal["identity", "style", "text"]
SCORER_KINDS: tuple[ScorerKind, ...] = get_args(ScorerKind)

SCHEMA_VERSION = 2

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


IDENTITY, STYLE = "identity", "style"
"""What an adapter learns; also the parts of the embeddings of the embedded base's scorer."""


@dataclass(frozen=True)
class Interval:
    """A number with its bootstrap interval, of 95 % unless stated otherwise."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """A measured number with the value of random adapters to compare it with.

    Attributes:
        value: the measured value.
        random: mean value of random adapters of the same shapes and norms; None where it has no meaning.
        random_sd: standard deviation of the values of random adapters; None if it is unknown.
        details: further numbers for `--json`, by name.
        error: why there is no value, in one line; then the value is NaN. Empty otherwise.

    """

    value: float
    random: float | None = None
    random_sd: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class FailedParts:
    """The reason why a measure could not reduce a module to numbers, in one line."""

    error: str


ModuleParts: TypeAlias = "Parts | FailedParts | None"
"""What a measure reduces a module to; None if it has no answer."""


@dataclass(frozen=True)
class MeasureError:
    """A measure that has no value because its plugin failed.

    Attributes:
        plugin: the plugin, `"plugin NAME of DISTRIBUTION VERSION"`.
        name: name of the measure.
        block: name of the block, or of another group of modules.
        reason: what went wrong, in one line.

    """

    plugin: str
    name: str
    block: str
    reason: str


def attempted(function: Callable[..., object], *arguments: object) -> object:
    """Return what a plugin's function returns, or `FailedParts` if it raises."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # foreign code: it must not stop the other measures
        text = first_line(error)
        return FailedParts(text if isinstance(error, BwlabError) else f"{type(error).__name__}: {text}")


def _parts(returned: object, call: str) -> ModuleParts:
    if returned is None or isinstance(returned, FailedParts):
        return returned
    if not isinstance(returned, Mapping) or not all(map(_is_number, returned.values())):
        return FailedParts(f"{call} returned {_shown(returned)}, not numbers by name")
    return returned


def _combined(modules: Sequence[ModuleParts], of_block: Callable[[Sequence[Parts]], object]) -> Measured | None:
    """Return the value of modules together; a `Measured` with an error if a module or `of_block` failed."""
    failed = next((parts for parts in modules if isinstance(parts, FailedParts)), None)
    if failed is not None:
        return Measured(math.nan, error=failed.error)
    known = [parts for parts in modules if parts is not None and not isinstance(parts, FailedParts)]
    if not known:
        return None
    returned = attempted(of_block, known)
    if isinstance(returned, FailedParts):
        return Measured(math.nan, error=returned.error)
    if returned is None:
        return None
    if not isinstance(returned, Measured):
        return Measured(math.nan, error=f"of_block returned {_shown(returned)}, not Measured or None")
    numbers = (returned.value, returned.random, returned.random_sd, *returned.details.values())
    wrong = next((number for number in numbers if number is not None and not _is_finite(number)), None)
    return returned if wrong is None else Measured(math.nan, error=f"of_block returned {_shown(wrong)}")


def _is_number(value: object) -> bool:
    # Asking for a protocol is slow, and nearly all values are floats.
    return isinstance(value, float) or (isinstance(value, SupportsFloat) and not isinstance(value, str))


def _is_finite(value: object) -> bool:
    return isinstance(value, float | SupportsFloat) and math.isfinite(float(value))


def _shown(value: object) -> str:
    """Return a number as text, and the type of anything else."""
    return f"{float(value)}" if isinstance(value, int | float) else type(value).__name__


def measure_errors(
    groups: Iterable[tuple[str, Mapping[str, Measured | None]]], measures: Iterable[BlockMetric | ConflictMeasure]
) -> tuple[MeasureError, ...]:
    """Return the errors of measures in groups of modules, given as the group's name and its measures by name."""
    owners = {measure.name: measure.owner for measure in measures}
    return tuple(
        MeasureError(owners.get(name, ""), name, group, measured.error)
        for group, values in groups
        for name, measured in values.items()
        if measured is not None and measured.error
    )


@dataclass(frozen=True)
class BlockMetric:
    """A number about one adapter's weights for each block: a column of `bwlab analyze norms`.

    Attributes:
        name: column head and JSON key, e.g. `"effective_rank"`; unique among all plugins.
        summary: one line that explains the number.
        of_module: function that reduces the spectrum of a module's delta; returns None for no answer (a zero delta).
        of_block: function that combines the numbers of at least one module.
        owner: the plugin, for messages; set when the metric is registered.

    """

    name: str
    summary: str
    of_module: Callable[[Spectrum], Parts | None]
    of_block: Callable[[Sequence[Parts]], Measured | None]
    owner: str = ""

    def parts_of(self, delta: Spectrum) -> ModuleParts:
        """Return the numbers of a module, or why there are none."""
        return _parts(attempted(self.of_module, delta), "of_module")

    def value_of(self, modules: Sequence[ModuleParts]) -> Measured | None:
        """Return the value of these modules together, with an error if the metric failed; None for no answer."""
        return _combined(modules, self.of_block)


@dataclass(frozen=True)
class ConflictMeasure:
    """A number about two adapters' weights for each block: a column of `bwlab analyze conflict`.

    Attributes:
        name: column head and JSON key, e.g. `"cosine"`; unique among all plugins.
        summary: one line that explains the number.
        of_pair: function that reduces the pair of a module's two deltas; returns None for no answer.
        of_block: function that combines the numbers of at least one module that both adapters change.
        slow: whether it is measured only with a separate option (`--signs`), because it multiplies the deltas out.
        owner: the plugin, for messages; set when the measure is registered.

    """

    name: str
    summary: str
    of_pair: Callable[[FactorPair], Parts | None]
    of_block: Callable[[Sequence[Parts]], Measured | None]
    slow: bool = False
    owner: str = ""

    def parts_of(self, pair: FactorPair) -> ModuleParts:
        """Return the numbers of a module, or why there are none."""
        return _parts(attempted(self.of_pair, pair), "of_pair")

    def value_of(self, modules: Sequence[ModuleParts]) -> Measured | None:
        """Return the value of these modules together, with an error if the measure failed; None for no answer."""
        return _combined(modules, self.of_block)


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
        owner: the plugin, for messages; set when the scorer is registered; empty for built-in scorers.

    """

    name: str
    kind: ScorerKind
    summary: str
    load: Callable[[], Callable[[Sequence[Image], Sequence[Any]], list[float]]]
    owner: str = ""


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
