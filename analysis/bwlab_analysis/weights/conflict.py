"""Conflict of two adapters' weights, per block, per cell and in total."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bwlab.adapters.names import adapter_names
from bwlab.errors import BwlabError
from bwlab.formats.architecture import ARCHITECTURE_NAMES
from bwlab.formats.types import Formats
from bwlab.linalg.factored import Spectrum
from bwlab.linalg.pair import FactorPair
from bwlab_analysis.measures import ConflictMeasure, Measured, MeasureError, ModuleParts, measure_errors
from bwlab_analysis.weights.adapter_weights import AdapterWeights, LeftOut, Naming, grouped, open_weights, text_widths

if TYPE_CHECKING:
    from bwlab.base.weights import ModelWeights


@dataclass(frozen=True)
class PairParts:
    """One module: `|delta|_F^2` in a and in b (None if the adapter lacks it), and the parts of each measure."""

    energy_a: float | None
    energy_b: float | None
    parts: Mapping[str, ModuleParts]

    @property
    def shared(self) -> bool:
        return self.energy_a is not None and self.energy_b is not None


@dataclass(frozen=True)
class Energies:
    """Energies (squared Frobenius norms) of the whole adapters."""

    a: float
    b: float


@dataclass(frozen=True)
class GroupConflict:
    """The conflict in a block, a cell, or the whole adapters.

    Attributes:
        name: the name of the group.
        modules_a, modules_b, shared: the number of its modules that a, b and both adapters change.
        share_a, share_b: the group's share of each adapter's energy, 0..1; None if the adapter is zero.
        joint_share: the group's share of the energy of both adapters together, 0..1; None if both are zero.
        measures: measure name -> value; None if the measure is undefined, as in a group without shared modules.

    """

    name: str
    modules_a: int
    modules_b: int
    shared: int
    share_a: float | None
    share_b: float | None
    joint_share: float | None
    measures: dict[str, Measured | None]

    @property
    def disjoint(self) -> bool:
        """Whether no module here is changed by both: the inner product of the deltas is exactly 0."""
        return self.shared == 0


@dataclass(frozen=True)
class ConflictReport:
    """The result of `bwlab analyze conflict` for two files, from their weights alone.

    Attributes:
        names: short names of a and b.
        shared_share_a, shared_share_b: each adapter's share of energy in modules that both change.

    """

    file_a: Path
    file_b: Path
    names: tuple[str, str]
    scheme: str
    measures: tuple[ConflictMeasure, ...]
    blocks: tuple[GroupConflict, ...]
    cells: tuple[GroupConflict, ...]
    total: GroupConflict
    shared_share_a: float | None
    shared_share_b: float | None
    left_out_a: tuple[LeftOut, ...]
    left_out_b: tuple[LeftOut, ...]

    @property
    def errors(self) -> tuple[MeasureError, ...]:
        """The measures that failed, by block; `"all"` is the whole adapters."""
        return measure_errors([(group.name, group.measures) for group in (*self.blocks, self.total)], self.measures)


def measure_conflict(
    file_a: Path,
    file_b: Path,
    measures: Sequence[ConflictMeasure],
    formats: Formats | None = None,
    base: ModelWeights | None = None,
    names: tuple[str, str] | None = None,
) -> ConflictReport:
    """Return the conflict of two adapter files, which are read module by module.

    Args:
        file_a, file_b: the adapters.
        measures: the measures of pairs of deltas, including those of plugins.
        formats: the source of format readers; None for the built-in readers only.
        base: the weights of the model that they were made for, which OFT and some other algorithms need.
        names: short names of the adapters; None for those of `bwlab.adapters.names.adapter_names`.

    Raises:
        BwlabError: a file cannot be read, the two were made for different models, or they do not fit the base.

    """
    a, b = open_weights(file_a, formats, base), open_weights(file_b, formats, base)
    with a.contents.kept_open(), b.contents.kept_open():
        return compared_weights(a, b, measures, names)


def compared_weights(
    a: AdapterWeights, b: AdapterWeights, measures: Sequence[ConflictMeasure], names: tuple[str, str] | None = None
) -> ConflictReport:
    """Return the conflict of two adapters that are open; arguments and errors are those of `measure_conflict`."""
    _require_one_model(a, b)
    pairs = {path: _pair(a, b, path, measures) for path in dict.fromkeys([*a.names, *b.names])}
    whole = Energies(_energy_a(pairs.values()), _energy_b(pairs.values()))

    def groups(naming: Naming, order: Sequence[str]) -> tuple[GroupConflict, ...]:
        members = grouped(pairs, naming, order)
        return tuple(_group(name, [pairs[path] for path in paths], whole, measures) for name, paths in members.items())

    shared = [pair for pair in pairs.values() if pair.shared]
    name_a, name_b = names or adapter_names((a.path, b.path))
    return ConflictReport(
        file_a=a.path,
        file_b=b.path,
        names=(name_a, name_b),
        scheme=a.scheme.name,
        measures=tuple(measures),
        blocks=groups({**a.blocks, **b.blocks}.__getitem__, a.scheme.blocks()),
        cells=groups({**a.cells, **b.cells}.__getitem__, a.scheme.cells()),
        total=_group("all", list(pairs.values()), whole, measures),
        shared_share_a=_share(_energy_a(shared), whole.a),
        shared_share_b=_share(_energy_b(shared), whole.b),
        left_out_a=a.left_out,
        left_out_b=b.left_out,
    )


def _require_one_model(a: AdapterWeights, b: AdapterWeights) -> None:
    asked, fix = f"comparing {a.path} and {b.path}", "Give two adapters of one base model"
    made_for = [adapter.contents.architecture for adapter in (a, b)]
    one, other = (ARCHITECTURE_NAMES[architecture] for architecture in made_for)
    if a.scheme.name != b.scheme.name:
        names = f"{a.scheme.name} and {b.scheme.name}"
        models = f", of {one} and {other}" if "unknown" not in made_for else ""
        raise BwlabError(asked, f"they are for models of different schemes, {names}{models}", fix)
    shared = [path for path in a.names if path in b.shapes]
    differing = [path for path in shared if a.shapes[path] != b.shapes[path]]
    if differing:
        first = differing[0]
        shapes = f"{first} is {a.shapes[first]} in one and {b.shapes[first]} in the other"
        raise BwlabError(asked, f"{len(differing)} of {len(shared)} shared modules differ in shape ({shapes})", fix)
    widths_a, widths_b = text_widths(a.shapes), text_widths(b.shapes)
    if widths_a and widths_b and widths_a.isdisjoint(widths_b):
        raise BwlabError(asked, f"they read text embeddings of widths {min(widths_a)} and {min(widths_b)}", fix)
    if "unknown" not in made_for and made_for[0] != made_for[1]:
        raise BwlabError(asked, f"one is for {one}, the other for {other}", fix)


def _pair(a: AdapterWeights, b: AdapterWeights, path: str, measures: Sequence[ConflictMeasure]) -> PairParts:
    delta_a = a.delta(path) if path in a.shapes else None
    delta_b = b.delta(path) if path in b.shapes else None
    if delta_a is None or delta_b is None:
        energy_a = None if delta_a is None else a.energy(path, Spectrum(delta_a))
        energy_b = None if delta_b is None else b.energy(path, Spectrum(delta_b))
        return PairParts(energy_a, energy_b, {})
    pair = FactorPair(delta_a, delta_b)
    with np.errstate(over="ignore", invalid="ignore"):  # `energy` refuses what overflows.
        energy_a, energy_b = a.energy(path, pair.a), b.energy(path, pair.b)
    return PairParts(energy_a, energy_b, {measure.name: measure.parts_of(pair) for measure in measures})


def _energy_a(pairs: Iterable[PairParts]) -> float:
    return math.fsum(pair.energy_a or 0.0 for pair in pairs)


def _energy_b(pairs: Iterable[PairParts]) -> float:
    return math.fsum(pair.energy_b or 0.0 for pair in pairs)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _group(name: str, pairs: list[PairParts], whole: Energies, measures: Sequence[ConflictMeasure]) -> GroupConflict:
    values = {}
    for measure in measures:
        values[measure.name] = measure.value_of([pair.parts.get(measure.name) for pair in pairs])
    energy_a, energy_b = _energy_a(pairs), _energy_b(pairs)
    return GroupConflict(
        name=name,
        modules_a=sum(pair.energy_a is not None for pair in pairs),
        modules_b=sum(pair.energy_b is not None for pair in pairs),
        shared=sum(pair.shared for pair in pairs),
        share_a=_share(energy_a, whole.a),
        share_b=_share(energy_b, whole.b),
        joint_share=_share(energy_a + energy_b, whole.a + whole.b),
        measures=values,
    )
