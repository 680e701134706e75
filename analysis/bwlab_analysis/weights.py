"""An adapter file as low-rank matrices, one module read at a time, without torch.

This is the one place of the analysis that knows the file format.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.formats.files import AdapterFile, open_adapter_file, require_kohya
from bwlab.formats.keys import ALPHA, DOWN, UP, dialect_of, path_of, split_key
from bwlab.lowrank import Array, FactoredMatrix
from bwlab_analysis.architecture import scheme_of

# Leaf (its beginning) -> algorithm, the telling ones first. Source: LyCORIS 4.1.3's own modules.
ALGORITHMS = {
    "dora_scale": "DoRA",
    "lora_mid": "LoCon with a Tucker core (lora_mid)",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT or BOFT",
    "on_input": "IA3",
    "a1.": "GLoRA",
    "b1.": "GLoRA",
    "diff": "full-matrix difference",
    "w_norm": "norm-layer difference",
    "b_norm": "norm-layer difference",
}


@dataclass(frozen=True)
class LeftOut:
    """Keys of a file that the numbers do not cover.

    Attributes:
        reason: why, e.g. `"LoKr, whose norms are not read yet"`.
        keys: the file's names of them, at least one.
    """

    reason: str
    keys: tuple[str, ...]

    @property
    def line(self) -> str:
        """One line for tables: the reason, how many, and the first of them."""
        more = f" and {len(self.keys) - 1} more" if len(self.keys) > 1 else ""
        return f"{self.reason}: {self.keys[0]}{more}"


@dataclass(frozen=True)
class AdapterWeights:
    """A kohya adapter file of low-rank modules.

    Attributes:
        file: the open file.
        scheme: of the blocks of the UNet it was made for.
        names: module path -> the file's name of it, in the order of the scheme's blocks.
        blocks: module path -> block.
        cells: module path -> cell, one resnet/attention pair.
        shapes: module path -> (out, in) of its delta; `in` of a convolution is channels x k x k.
        left_out: what the file holds beside low-rank modules.
    """

    file: AdapterFile
    scheme: BlockScheme
    names: Mapping[str, str]
    blocks: Mapping[str, str]
    cells: Mapping[str, str]
    shapes: Mapping[str, tuple[int, int]]
    left_out: tuple[LeftOut, ...]

    def delta(self, path: str) -> FactoredMatrix:
        """The delta of a module, alpha / rank folded in; BwlabError if a number in it is NaN or infinite."""
        name = self.names[path]
        down = self._tensor(f"{name}.{DOWN}")
        up = self._tensor(f"{name}.{UP}")
        alpha_key = f"{name}.{ALPHA}"
        alpha = float(self._tensor(alpha_key).reshape(-1)[0]) if alpha_key in self.file.entries else down.shape[0]
        return FactoredMatrix(up.reshape(len(up), -1) * (alpha / down.shape[0]), down.reshape(len(down), -1))

    def _tensor(self, key: str) -> Array:
        values = self.file.read(key).astype(np.float64)
        if not np.isfinite(values).all():
            bad = int(values.size - np.count_nonzero(np.isfinite(values)))
            found = f"{bad} of the {values.size} numbers of {key} are NaN or infinite"
            raise BwlabError(f"reading adapter {self.file.path}", found, "Its training failed; train it again")
        return values


def open_weights(path: Path) -> AdapterWeights:
    """The low-rank modules of an adapter file.

    Raises:
        BwlabError: it is no safetensors file, holds no kohya keys, none of a known UNet or none of a low-rank module.
    """
    file = open_adapter_file(path)
    modules, foreign = _modules_of(file)
    if not modules:
        require_kohya(file)
    paths, unknown = _paths_of(modules)
    readable = {path: name for path, name in paths.items() if _algorithm_of(modules[name]) is None}
    shapes = {path: _shape_of(file, name) for path, name in readable.items()}
    scheme = scheme_of(file.path, shapes, file.metadata)
    blocks = {path: block for path in readable if (block := scheme.block_of(path)) is not None}
    unknown += [name for path, name in readable.items() if path not in blocks]
    left_out = (*_by_algorithm(paths.values(), modules), *_unknown(unknown, foreign))
    if not blocks:
        reasons = "; ".join(part.line for part in left_out)
        raise BwlabError(
            f"reading adapter {path}", reasons, "Give a LoRA or LoCon file of Stable Diffusion 1.x to SDXL"
        )
    ordered = sorted(blocks, key=lambda path: scheme.blocks().index(blocks[path]))
    return AdapterWeights(
        file=file,
        scheme=scheme,
        names={path: readable[path] for path in ordered},
        blocks=blocks,
        cells={path: scheme.cell_of(path) or blocks[path] for path in ordered},
        shapes={path: shapes[path] for path in ordered},
        left_out=left_out,
    )


def _modules_of(file: AdapterFile) -> tuple[dict[str, set[str]], list[str]]:
    """Module name -> its leaves, of the kohya keys; and the other keys."""
    modules: dict[str, set[str]] = {}
    foreign = []
    for key in file.entries:
        if dialect_of([key]) == "kohya":
            name, leaf = split_key(key)
            modules.setdefault(name, set()).add(leaf)
        else:
            foreign.append(key)
    return modules, foreign


def _paths_of(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Module path -> name, and the names that are of no known model; a path named twice keeps its first name."""
    paths: dict[str, str] = {}
    unknown = []
    for name in names:
        try:
            path = path_of(name)
        except BwlabError:
            unknown.append(name)
            continue
        if paths.setdefault(path, name) != name:
            unknown.append(name)
    return paths, unknown


def _algorithm_of(leaves: Collection[str]) -> str | None:
    """What a module with these leaves is, where it is not low-rank; None of a plain LoRA or LoCon module."""
    for beginning, algorithm in ALGORITHMS.items():
        if any(leaf.startswith(beginning) for leaf in leaves):
            return algorithm
    if {DOWN, UP} <= set(leaves) <= {DOWN, UP, ALPHA}:
        return None
    return f"a module of {', '.join(sorted(leaves))}"


def _by_algorithm(names: Iterable[str], modules: Mapping[str, Collection[str]]) -> Iterable[LeftOut]:
    found: dict[str, list[str]] = {}
    for name in names:
        algorithm = _algorithm_of(modules[name])
        if algorithm is not None:
            found.setdefault(algorithm, []).append(name)
    return [LeftOut(f"{algorithm}, whose norms are not read yet", tuple(keys)) for algorithm, keys in found.items()]


def _unknown(names: list[str], keys: list[str]) -> Iterable[LeftOut]:
    parts = {"no module of a known UNet or text encoder": names, "no kohya key": keys}
    return [LeftOut(reason, tuple(found)) for reason, found in parts.items() if found]


def _shape_of(file: AdapterFile, name: str) -> tuple[int, int]:
    down, up = file.entries[f"{name}.{DOWN}"].shape, file.entries[f"{name}.{UP}"].shape
    alpha = file.entries[f"{name}.{ALPHA}"].shape if f"{name}.{ALPHA}" in file.entries else ()
    fits = len(up) == len(down) >= 2 and up[1] == down[0] > 0 and math.prod(up[2:]) == math.prod(alpha) == 1
    if not fits or 0 in (up[0], math.prod(down[1:])):
        found = f"{name} has up {up}, down {down} and alpha {alpha}, which do not make one delta"
        raise BwlabError(f"reading adapter {file.path}", found, "Give a LoRA or LoCon file")
    return up[0], math.prod(down[1:])
