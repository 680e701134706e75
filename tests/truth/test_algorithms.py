"""The delta of every algorithm, its factors and its spectrum against dense float64, on prime shapes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bwlab.formats.read import read_contents
from bwlab.linalg.factored import FactoredMatrix, Spectrum
from tests.truth import dense, drawn

DELTA = 1e-12
"""Tolerance of a delta in float64, as a share of its largest number."""
NORM, SPECTRUM = 1e-6, 1e-5
NAME, PATH = "lora_unet_mid_block_resnets_0_conv1", "mid_block.resnets.0.conv1"
PRIMES = st.sampled_from([5, 7, 11, 13, 17])
KERNELS = st.sampled_from([(), (1, 1), (3, 3), (2, 3)])
SEEDS = st.integers(0, 2**32 - 1)
RANKS = st.sampled_from([1, 2, 3])


@pytest.mark.parametrize("algorithm", [*drawn.WITHOUT_BASE, *drawn.WITH_BASE])
@settings(max_examples=25)
@given(seed=SEEDS, sides=st.tuples(PRIMES, PRIMES), kernel=KERNELS, rank=RANKS)
def test_deltas_and_spectra_are_the_dense_ones(
    algorithm: str, seed: int, sides: tuple[int, int], kernel: tuple[int, ...], rank: int
) -> None:
    draw = np.random.default_rng(seed)
    # Kronecker products need sides that are products, and butterflies an even number of outputs.
    factor = {"boft": 4}.get(algorithm, 3 if "lokr" in algorithm or algorithm == "oft" else 1)
    shape = (factor * sides[0], (2 if "lokr" in algorithm else 1) * sides[1], *kernel)
    leaves = {**drawn.WITHOUT_BASE, **drawn.WITH_BASE}[algorithm](draw, shape, rank)
    weight = draw.standard_normal(shape)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save_file(drawn.tensors_of({NAME: leaves}), path)
        module = read_contents(path).modules[PATH]
        expected = dense.delta(dense.modules(path)[NAME], weight)
        found = np.asarray(module.delta(weight), np.float64)
        assert found.shape == shape
        assert np.abs(dense.flat(found) - expected).max() <= DELTA * np.abs(expected).max()
        matrix = module.matrix(lambda path: weight)
    if isinstance(matrix, FactoredMatrix):
        assert np.abs(matrix.dense() - expected).max() <= DELTA * np.abs(expected).max()
        values = np.linalg.svd(expected, compute_uv=False)
        assert matrix.norm() == pytest.approx(np.linalg.norm(expected), rel=NORM)
        own = Spectrum(matrix).singular_values()[: len(values)]
        np.testing.assert_allclose(own, values[: len(own)], rtol=SPECTRUM, atol=SPECTRUM * 1e-6 * values[0])
        assert np.all(values[len(own) :] <= 1e-12 * values[0])
    else:
        assert np.abs(matrix - expected).max() <= DELTA * np.abs(expected).max()
