"""Adapter files that other people trained, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bwlab.formats.contents import AdapterContents
from bwlab.formats.modules import ModuleWeights
from bwlab.linalg.truncation import concatenated

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "loras"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".md") if FOLDER.is_dir() else []


def real_file(name: str) -> Path:
    """Return the file; skips the test where the folder is absent."""
    if not FOLDER.is_dir():
        pytest.skip(f"no folder {FOLDER}")
    return FOLDER / name


def assert_same_deltas(a: AdapterContents, b: AdapterContents, tolerance: float = 1e-6) -> None:
    """Both adapters change the same weights by the same numbers, relative to the norm of each."""
    assert set(a.modules) == set(b.modules)
    for path, module in a.modules.items():
        assert difference(module, b.modules[path]) <= tolerance


def difference(a: ModuleWeights, b: ModuleWeights) -> float:
    """Return the norm of the difference of two deltas over that of the first; 0 at once if all leaves agree."""
    if _same_leaves(a, b):
        return 0.0
    here, there = a.factors(), b.factors()
    if here is not None and there is not None:
        return concatenated([here, there.scaled(-1.0)]).norm() / here.norm()
    dense, other = a.delta(), b.delta()
    return float(np.linalg.norm(dense.reshape(-1) - other.reshape(-1)) / np.linalg.norm(dense))


def _same_leaves(a: ModuleWeights, b: ModuleWeights) -> bool:
    if set(a.leaves) != set(b.leaves) or (a.scale(), a.algorithm) != (b.scale(), b.algorithm):
        return False
    return all(np.array_equal(a.leaves[leaf].read(), b.leaves[leaf].read()) for leaf in a.leaves)
