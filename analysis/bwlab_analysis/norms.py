"""What one adapter's weights hold, per block, per module kind and in all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bwlab.formats.contents import Formats
from bwlab_analysis.groups import KINDS, grouped, kind_of
from bwlab_analysis.registry import BlockMetric, Measured, Parts
from bwlab_analysis.weights import AdapterWeights, LeftOut, open_weights


@dataclass(frozen=True)
class ModuleNorms:
    """One module: the rank in the file, `|delta|_F^2`, and the parts of each metric by its name."""

    rank: int
    energy: float
    parts: dict[str, Parts | None]


@dataclass(frozen=True)
class GroupNorms:
    """A block, cell or module kind.

    Attributes:
        name: of the group.
        modules: how many are in it.
        ranks: smallest and largest rank in the file.
        norm: Frobenius norm of all its deltas together.
        share: of the adapter's energy (squared norm), 0..1; None if the whole adapter is zero.
        measures: metric name -> value, None where it has no answer.
    """

    name: str
    modules: int
    ranks: tuple[int, int]
    norm: float
    share: float | None
    measures: dict[str, Measured | None]


@dataclass(frozen=True)
class NormsReport:
    """Everything that `bwlab analyze norms` tells of a file."""

    file: Path
    scheme: str
    metrics: tuple[BlockMetric, ...]
    blocks: tuple[GroupNorms, ...]
    kinds: tuple[GroupNorms, ...]
    cells: tuple[GroupNorms, ...]
    total: GroupNorms
    empty_blocks: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def measure_norms(file: Path, metrics: Sequence[BlockMetric], formats: Formats | None = None) -> NormsReport:
    """Read an adapter file module by module and sum it up; raises `BwlabError` if it cannot be read."""
    weights = open_weights(file, formats)
    modules = {path: _module(weights, path, metrics) for path in weights.names}
    energy = math.fsum(module.energy for module in modules.values())
    scheme = weights.scheme

    def groups(members: dict[str, list[str]]) -> tuple[GroupNorms, ...]:
        return tuple(
            _group(name, [modules[path] for path in paths], energy, metrics) for name, paths in members.items()
        )

    blocks = grouped(modules, weights.blocks.__getitem__, scheme.blocks())
    return NormsReport(
        file=file,
        scheme=scheme.name,
        metrics=tuple(metrics),
        blocks=groups(blocks),
        kinds=groups(grouped(modules, kind_of, KINDS)),
        cells=groups(grouped(modules, weights.cells.__getitem__, scheme.cells())),
        total=_group("all", modules.values(), energy, metrics),
        empty_blocks=tuple(block for block in scheme.blocks() if block not in blocks),
        left_out=weights.left_out,
    )


def _module(weights: AdapterWeights, path: str, metrics: Sequence[BlockMetric]) -> ModuleNorms:
    delta = weights.delta(path)
    parts = {metric.name: metric.of_module(delta) for metric in metrics}
    return ModuleNorms(weights.rank(path), delta.norm() ** 2, parts)


def _group(name: str, members: Iterable[ModuleNorms], energy: float, metrics: Sequence[BlockMetric]) -> GroupNorms:
    modules = list(members)
    ranks = [module.rank for module in modules]
    own = math.fsum(module.energy for module in modules)
    measures = {}
    for metric in metrics:
        parts = [found for module in modules if (found := module.parts[metric.name]) is not None]
        measures[metric.name] = metric.value_of(parts)
    share = own / energy if energy else None
    return GroupNorms(name, len(modules), (min(ranks), max(ranks)), math.sqrt(own), share, measures)
