"""Fused matrices of transformers: splitting a module into the layers of diffusers and joining them again, exactly.

The original code of FLUX, SD3 and others computes query, key and value (and an MLP's input) with one matrix. Its rows
are those of diffusers' layers, one below the other. Of most algorithms the rows of the delta are the rows of some
leaves: up of a LoRA, `hada_w1_a` and `hada_w2_a` of a LoHa. Such a module splits into modules that share the other
leaves. Others, such as a LoKr whose blocks do not end where a layer ends, are split into `FusedRows`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bwlab.errors import BwlabError
from bwlab.formats.algorithms.algorithm import Shape
from bwlab.formats.algorithms.dora import MAGNITUDE
from bwlab.formats.algorithms.full import DIFF, DIFF_BIAS
from bwlab.formats.keys import DOWN, UP
from bwlab.formats.modules import ModuleWeights, WeightReader, own_alpha, with_unit_scale
from bwlab.formats.tensors import LazyTensor, Numbers, same_numbers, stacked
from bwlab.linalg.factored import Array, FactoredMatrix

Range = tuple[int, int]

# Algorithm -> the leaves whose rows are those of the delta.
ROW_LEAVES = {
    "lora": (UP,),
    "dora": (UP, MAGNITUDE),
    "loha": ("hada_w1_a", "hada_w2_a"),
    "doha": ("hada_w1_a", "hada_w2_a", MAGNITUDE),
    "full": (DIFF,),
}
KRONECKER_LEAVES = ("lokr_w1", "lokr_w1_a")
# Zero rows in these leaves mean no change of these rows of the weight.
WITH_ZEROS = frozenset({"lora", "loha", "full", "lokr"})


@dataclass(frozen=True, eq=False)
class FusedRows(ModuleWeights):
    """Rows of a module that changes a fused matrix, where no leaves have these rows.

    Attributes:
        rows: the ranges of rows of the whole delta, in their order here.
        parts: the paths of all layers that the whole module changes, in the order of its rows.

    """

    rows: tuple[Range, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def shape(self) -> Shape | None:
        """The delta's shape: that of the whole with the number of these rows."""
        whole = self._algorithm.shape(self._shapes)
        return None if whole is None else (sum(last - first for first, last in self.rows), *whole[1:])

    def factors(self) -> FactoredMatrix | None:
        """Return these rows of the factors of the whole module."""
        whole = super().factors()
        if whole is None:
            return None
        return FactoredMatrix(self._cut(np.asarray(whole.up_factor)), whole.down_factor, whole.scale)

    def kronecker_parts(self) -> tuple[()]:
        """Return an empty tuple: some rows of a Kronecker product are none."""
        return ()

    def singular_values(self) -> None:
        """Return None: those of some rows do not follow from those of the whole."""

    def matrix(self, weight_of: WeightReader | None = None) -> FactoredMatrix | Array:
        """Return these rows of the whole delta, which may need the base weights of all layers together."""
        factors = self.factors()
        if factors is not None:
            return factors
        if self.needs_base and weight_of is not None:
            weight = np.concatenate([weight_of(path) for path in self.parts])
            return np.asarray(self._cut(super().delta(weight)), np.float64)
        return np.asarray(self.delta(), np.float64)

    def delta(self, base_weight: NDArray[np.generic] | None = None, dtype: DTypeLike = np.float64) -> Numbers:
        """Return these rows of the whole delta, including the scale; `BwlabError` if they need the base."""
        if self.needs_base:
            raise BwlabError(
                f"the delta of {self.path} in {self.source or 'an adapter'}",
                f"{self.algorithm} of a fused matrix needs the weights of {len(self.parts)} layers at once",
                "Turn it into a low-rank form first: bwlab convert --rank N --base BASE",
            )
        return self._cut(super().delta(None, dtype))

    def _cut(self, values: NDArray[np.floating]) -> Numbers:
        pieces: Numbers = np.concatenate([values[first:last] for first, last in self.rows])
        return pieces


def split(module: ModuleWeights, paths: Sequence[str], sizes: Sequence[int]) -> list[ModuleWeights]:
    """Return the modules of the layers that a fused matrix holds, which share what does not belong to one of them.

    A LoRA whose up is block-diagonal, as sd-scripts' `split_qkv` makes it, gives modules of the rank of a block.

    Args:
        module: the module of the fused matrix.
        paths: the layers, in the order of their rows.
        sizes: the number of rows of each layer.

    """
    ranges = list(pairwise(accumulate(sizes, initial=0)))
    if module.algorithm == "lora" and (blocks := _diagonal_blocks(module, ranges)) is not None:
        return [dataclasses.replace(block, path=path) for block, path in zip(blocks, paths, strict=True)]
    return [rows_of(module, path, (own,), tuple(paths)) for path, own in zip(paths, ranges, strict=True)]


def rows_of(module: ModuleWeights, path: str, rows: Sequence[Range], parts: tuple[str, ...]) -> ModuleWeights:
    """Return a module that changes these rows of a module's delta alone, as the layer at `path`."""
    units = _row_units(module, rows)
    if units is None:
        fields = {field.name: getattr(module, field.name) for field in dataclasses.fields(ModuleWeights)}
        return FusedRows(**{**fields, "path": path}, rows=tuple(rows), parts=parts)
    leaves = {
        leaf: tensor.rows([(first // units[leaf], last // units[leaf]) for first, last in rows])
        if leaf in units
        else tensor
        for leaf, tensor in module.leaves.items()
    }
    return dataclasses.replace(module, path=path, leaves=leaves)


def _row_units(module: ModuleWeights, rows: Sequence[Range]) -> dict[str, int] | None:
    """Return leaf -> rows of the delta for each of its rows; None if these rows are not rows of leaves."""
    out = (module.shape or (0,))[0]
    bias = {leaf: 1 for leaf in (DIFF_BIAS,) if leaf in module.leaves}
    if module.algorithm == "lokr":
        leaf = next((leaf for leaf in KRONECKER_LEAVES if leaf in module.leaves), None)
        unit = out // module.leaves[leaf].shape[0] if leaf is not None else 0
        fits = unit > 0 and all(first % unit == 0 and last % unit == 0 for first, last in rows)
        return {str(leaf): unit, **bias} if fits else None
    own = ROW_LEAVES.get(module.algorithm)
    if own is None or any(module.leaves[leaf].shape[0] != out for leaf in own):
        return None
    return {**dict.fromkeys(own, 1), **bias}


def _diagonal_blocks(module: ModuleWeights, ranges: Sequence[Range]) -> list[ModuleWeights] | None:
    """Return the LoRAs on the diagonal of a block-diagonal up; None if up has numbers outside of its blocks."""
    up, down = module.leaves[UP], module.leaves[DOWN]
    count, rank = len(ranges), down.shape[0]
    if count < 2 or rank % count or len(up.shape) != 2 or DIFF_BIAS in module.leaves:
        return None
    columns = list(pairwise(range(0, rank + 1, rank // count)))
    # The first row shows nearly always that up is whole; the rest is read only if it does not.
    if np.any(up.rows([(0, 1)]).read()[:, columns[0][1] :]):
        return None
    values = up.read()
    if not values.any():  # of an adapter that was not trained: any blocks would do
        return None
    for (first, last), (left, right) in zip(ranges, columns, strict=True):
        own = values[first:last]
        if np.any(own[:, :left]) or np.any(own[:, right:]):
            return None
    return [
        dataclasses.replace(
            module,
            leaves={DOWN: down.rows([(left, right)]), UP: _columns(up.rows([own]), left, right)},
            alpha=None if module.alpha is None else module.alpha / count,
        )
        for own, (left, right) in zip(ranges, columns, strict=True)
    ]


def _columns(tensor: LazyTensor, left: int, right: int) -> LazyTensor:
    shape = (tensor.shape[0], right - left)
    return LazyTensor(tensor.key, tensor.dtype, shape, lambda: tensor.read()[:, left:right], tensor.source)


def join(path: str, parts: Sequence[ModuleWeights | None], sizes: Sequence[int]) -> ModuleWeights | None:
    """Return one module of a fused matrix with the deltas of its layers, exactly; None if there is none.

    Layers that share what does not belong to one of them, as `split` makes them, give the module that was split. LoRAs
    that do not share down are joined block-diagonally, with the sum of their ranks.

    Args:
        path: the name of the fused matrix.
        parts: the module of each layer in the order of the rows; None where a layer is not changed.
        sizes: the number of rows of each layer.

    """
    present = [part for part in parts if part is not None]
    whole = _same_whole(parts)
    if whole is None and not any(isinstance(part, FusedRows) for part in present):
        whole = _sharing(present, parts, sizes)
    if whole is None and all(part.algorithm == "lora" and set(part.leaves) == {DOWN, UP} for part in present):
        whole = _block_diagonal(present, parts, sizes)
    return None if whole is None else dataclasses.replace(whole, path=path)


def _same_whole(parts: Sequence[ModuleWeights | None]) -> ModuleWeights | None:
    """Return the module whose rows the parts are, if they are all rows of one."""
    rows = [part for part in parts if isinstance(part, FusedRows)]
    if len(rows) < len(parts) or not _all_same(rows, tuple(rows[0].leaves)):
        return None
    fields = {field.name: getattr(rows[0], field.name) for field in dataclasses.fields(ModuleWeights)}
    return ModuleWeights(**fields)


def _all_same(parts: Sequence[ModuleWeights], leaves: Sequence[str]) -> bool:
    """Return whether modules are of one algorithm, have one alpha, and the same numbers in these leaves."""
    first = parts[0]
    return all(
        part.algorithm == first.algorithm
        and part.leaves.keys() == first.leaves.keys()
        and part.alpha == first.alpha
        and all(same_numbers(part.leaves[leaf], first.leaves[leaf]) for leaf in leaves)
        for part in parts[1:]
    )


def _sharing(
    present: Sequence[ModuleWeights], parts: Sequence[ModuleWeights | None], sizes: Sequence[int]
) -> ModuleWeights | None:
    """Return the module with the rows of all parts, if they share their other leaves."""
    first = present[0]
    units = _row_units(first, [(0, (first.shape or (0,))[0])])
    if units is None or (len(present) < len(parts) and first.algorithm not in WITH_ZEROS):
        return None
    if not _all_same(present, [leaf for leaf in first.leaves if leaf not in units]):
        return None
    own = [None if part is None else _row_units(part, [(0, size)]) for part, size in zip(parts, sizes, strict=True)]
    if any(part is not None and other != units for part, other in zip(parts, own, strict=True)):
        return None
    leaves = dict(first.leaves)
    for leaf, unit in units.items():
        pieces = [
            _zero_rows(first.leaves[leaf], size // unit) if part is None else part.leaves[leaf]
            for part, size in zip(parts, sizes, strict=True)
        ]
        leaves[leaf] = stacked(pieces, first.leaves[leaf].key)
    return dataclasses.replace(first, leaves=leaves)


def _zero_rows(like: LazyTensor, count: int) -> LazyTensor:
    shape = (count, *like.shape[1:])
    return LazyTensor(like.key, like.dtype, shape, lambda: np.zeros(shape, like.read().dtype), like.source)


def _block_diagonal(
    present: Sequence[ModuleWeights], parts: Sequence[ModuleWeights | None], sizes: Sequence[int]
) -> ModuleWeights:
    """Return the LoRA with all downs one below the other and all ups on the diagonal, of the sum of the ranks."""
    scales = {(own_alpha(part) or 0.0) / (part.rank() or 1) for part in present}
    ranks = [0 if part is None else part.rank() or 0 for part in parts]
    rank = sum(ranks)
    if len(scales) > 1:
        scales = {1.0}
        parts = [None if part is None else with_unit_scale(part) for part in parts]
        present = [part for part in parts if part is not None]
    ups = [part.leaves[UP] for part in present]
    dtypes = {up.dtype for up in ups}
    shape = (sum(sizes), rank)

    def fetch() -> NDArray[np.generic]:
        dtype = np.result_type(*(up.read().dtype for up in ups))
        whole = np.zeros(shape, dtype)
        row = column = 0
        for part, size, own in zip(parts, sizes, ranks, strict=True):
            if part is not None:
                whole[row : row + size, column : column + own] = part.leaves[UP].read()
            row, column = row + size, column + own
        return whole

    up = LazyTensor(ups[0].key, dtypes.pop() if len(dtypes) == 1 else "F32", shape, fetch, ups[0].source)
    down = stacked([part.leaves[DOWN] for part in present], present[0].leaves[DOWN].key)
    return dataclasses.replace(present[0], leaves={DOWN: down, UP: up}, alpha=scales.pop() * rank)
