"""Random pairs of files give what the random pair beside every number says, whatever the algorithm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bwlab_analysis.weights.conflict import measure_conflict
from bwlab_analysis.weights.pair_measures import COSINE, IN_OVERLAP, OUT_OVERLAP, SIGN_CONFLICT
from tests.analysis.small_bases import ALGORITHMS, SCHEMES, adapter_file, small_unet

MEASURES = [COSINE, OUT_OVERLAP, IN_OVERLAP, SIGN_CONFLICT]
PAIRS = 12
PARTS = {name: ["mid_block.", "down_blocks.1."] for name in SCHEMES} | {"sdxl": ["mid_block.resnets", "down_blocks.1."]}
"""Paths of the layers that are adapted; SDXL has ten transformers in its middle block."""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "oft"])
def test_scores_of_random_pairs_are_standard(tmp_path: Path, scheme: str, algorithm: str) -> None:
    """With z = (value - random) / random_sd: |z| <= 3 for nearly all, and 1 on average in square."""
    unet = small_unet(scheme)
    files = [
        adapter_file(tmp_path / f"{seed}.safetensors", unet, algorithm, PARTS[scheme], seed)
        for seed in range(2 * PAIRS)
    ]
    scores: dict[str, list[float]] = {measure.name: [] for measure in MEASURES}
    for a, b in zip(files[::2], files[1::2], strict=True):
        for name, found in measure_conflict(a, b, MEASURES).total.measures.items():
            assert found is not None
            assert found.random is not None
            assert found.random_sd is not None
            # Of full ranks both spaces are the whole: no spread, and nothing but 1 to find.
            if found.random_sd < 1e-9:
                assert found.value == pytest.approx(found.random, abs=1e-6)
            else:
                scores[name].append((found.value - found.random) / found.random_sd)
    for name, found_scores in scores.items():
        if found_scores:
            z = np.array(found_scores)
            assert np.mean(np.abs(z) <= 3) >= 0.9, name
            assert 0.2 < np.mean(z**2) < 2.5, name
