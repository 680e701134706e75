"""Norms of one adapter's weights and metrics of their spectra, per block, cell, module kind and module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.formats.types import Formats
from bwlab.linalg.factored import Spectrum
from bwlab_analysis.measures import BlockMetric, Measured, MeasureError, ModuleParts, Parts, measure_errors
from bwlab_analysis.weights.adapter_weights import MODULE_KINDS, AdapterWeights, LeftOut, grouped, kind_of, open_weights

if TYPE_CHECKING:
    from bwlab.base.weights import ModelWeights


def _rank_of_block(modules: Sequence[Parts]) -> Measured:
    effective = sum(parts["effective"] for parts in modules) / len(modules)
    rank = sum(parts["rank"] for parts in modules) / len(modules)
    return Measured(effective, details={"of_rank": rank})


def _most_directions(delta: Spectrum) -> int:
    """Return the greatest possible number of directions: the rank of the factors, or the smaller side if it is less."""
    return min(*delta.matrix.shape, delta.matrix.inner_rank)


def _rank_parts(delta: Spectrum) -> Parts | None:
    effective = delta.effective_rank()
    return None if effective is None else {"effective": effective, "rank": float(_most_directions(delta))}


EFFECTIVE_RANK = BlockMetric(
    "effective_rank",
    "exp(entropy of s / sum(s)) of the singular values s, mean over modules: how many directions are used",
    _rank_parts,
    _rank_of_block,
)


def _top1_of_block(modules: Sequence[Parts]) -> Measured:
    energy = sum(parts["energy"] for parts in modules)
    return Measured(
        sum(parts["top"] for parts in modules) / energy,
        details={"flat": sum(parts["flat"] for parts in modules) / energy},
    )


def _top1_parts(delta: Spectrum) -> Parts | None:
    share = delta.top1_share()
    if share is None:
        return None
    energy = delta.norm() ** 2
    return {"top": share * energy, "flat": energy / _most_directions(delta), "energy": energy}


TOP1_SHARE = BlockMetric(
    "top1_share",
    "share of the energy in each module's first direction: near 1 is a spike, which adapters stack badly with",
    _top1_parts,
    _top1_of_block,
)


@dataclass(frozen=True)
class ModuleNorms:
    """One module: the rank in the file, `|delta|_F^2`, the parts of each metric by its name, and `|W|_F^2`.

    W is the base weight that the module changes; `|W|_F^2` is None without a base.
    """

    rank: int
    energy: float
    parts: dict[str, ModuleParts]
    base_energy: float | None = None


@dataclass(frozen=True)
class GroupNorms:
    """A block, cell, module kind or single module.

    Attributes:
        name: the name of the group.
        modules: the number of its modules.
        ranks: the smallest and the largest rank that the file records.
        norm: the Frobenius norm of all its deltas together.
        share: the group's share of the adapter's energy (squared norm), 0..1; None if the whole adapter is zero.
        measures: metric name -> value; None if the metric is undefined.
        base_norm: the Frobenius norm of the base weights that its modules change; None without a base.

    """

    name: str
    modules: int
    ranks: tuple[int, int]
    norm: float
    share: float | None
    measures: dict[str, Measured | None]
    base_norm: float | None = None

    @property
    def relative(self) -> float | None:
        """`|delta|_F / |W|_F`, of the weights that the modules change; None without a base, or if they are all 0."""
        return self.norm / self.base_norm if self.base_norm else None


@dataclass(frozen=True)
class NormsReport:
    """The result of `bwlab analyze norms`; `base` is the name of the model that the file is compared with."""

    file: Path
    scheme: str
    metrics: tuple[BlockMetric, ...]
    blocks: tuple[GroupNorms, ...]
    kinds: tuple[GroupNorms, ...]
    cells: tuple[GroupNorms, ...]
    modules: tuple[GroupNorms, ...]
    total: GroupNorms
    empty_blocks: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    base: str | None = None

    @property
    def errors(self) -> tuple[MeasureError, ...]:
        """The metrics that failed, by block; `"all"` is the whole adapter."""
        return measure_errors([(group.name, group.measures) for group in (*self.blocks, self.total)], self.metrics)


def measure_norms(
    file: Path, metrics: Sequence[BlockMetric], formats: Formats | None = None, base: ModelWeights | None = None
) -> NormsReport:
    """Return the norms of an adapter file, which is read module by module.

    Args:
        file: the adapter.
        metrics: the metrics of modules, including those of plugins.
        formats: the source of format readers; None for the built-in readers only.
        base: the weights of the model that it was made for, to compare with.

    Raises:
        BwlabError: the file cannot be read, or does not fit the base.

    """
    weights = open_weights(file, formats, base)
    with weights.contents.kept_open():
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
        kinds=groups(grouped(modules, kind_of, MODULE_KINDS)),
        cells=groups(grouped(modules, weights.cells.__getitem__, scheme.cells())),
        modules=groups({path: [path] for path in modules}),
        total=_group("all", modules.values(), energy, metrics),
        empty_blocks=tuple(block for block in scheme.blocks() if block not in blocks),
        left_out=weights.left_out,
        base=None if base is None else base.name,
    )


def _module(weights: AdapterWeights, path: str, metrics: Sequence[BlockMetric]) -> ModuleNorms:
    delta = Spectrum(weights.delta(path))
    energy = weights.energy(path, delta)
    parts = {metric.name: metric.parts_of(delta) for metric in metrics}
    return ModuleNorms(weights.rank(path), energy, parts, weights.base_energy(path))


def _group(name: str, members: Iterable[ModuleNorms], energy: float, metrics: Sequence[BlockMetric]) -> GroupNorms:
    modules = list(members)
    ranks = [module.rank for module in modules]
    own = math.fsum(module.energy for module in modules)
    of_base = [module.base_energy for module in modules if module.base_energy is not None]
    measures = {}
    for metric in metrics:
        measures[metric.name] = metric.value_of([module.parts[metric.name] for module in modules])
    share = own / energy if energy else None
    base_norm = math.sqrt(math.fsum(of_base)) if of_base else None
    return GroupNorms(name, len(modules), (min(ranks), max(ranks)), math.sqrt(own), share, measures, base_norm)
