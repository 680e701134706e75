"""Norms, conversions, truncations and merges of files against dense float64, on random adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bwlab.plugins.builtin
from bwlab.merging.convert import Conversion, convert
from bwlab.merging.merge import MergeRecipe, merge
from bwlab.merging.methods import Method
from bwlab.merging.output import Target
from bwlab.plugins.manager import build_manager
from bwlab_analysis.weights.norms import EFFECTIVE_RANK, TOP1_SHARE, measure_norms
from tests.truth import dense, drawn

MANAGER = build_manager([bwlab.plugins.builtin], installed=False)
SINGLE, HALF = 1e-6, 1e-3
"""Tolerances of deltas that are written in float32 and float16, as a share of their norm."""
ALGORITHMS = st.sampled_from(sorted(drawn.WITHOUT_BASE))
SEEDS = st.integers(0, 2**32 - 1)
RANKS = st.sampled_from([1, 2, 3])
SCALES = st.sampled_from([-1.3, 0.25, 0.7, 2.0])

Deltas = Mapping[str, dense.Array]


def assert_near(found: Deltas, expected: Deltas, tolerance: float) -> None:
    """Every delta is within `tolerance` of the expected one, as a share of its norm."""
    assert found.keys() == expected.keys()
    for name, matrix in expected.items():
        assert np.linalg.norm(found[name] - matrix) <= tolerance * np.linalg.norm(matrix), name


@settings(max_examples=20)
@given(algorithm=ALGORITHMS, seed=SEEDS, rank=RANKS)
def test_norms(algorithm: str, seed: int, rank: int) -> None:
    with TemporaryDirectory() as folder:
        path = drawn.write_adapter(Path(folder) / "a.safetensors", seed, algorithm, rank)
        report = measure_norms(path, [EFFECTIVE_RANK, TOP1_SHARE])
        deltas = dense.deltas(path)
    total = sum(float((matrix**2).sum()) for matrix in deltas.values())
    for group in (*report.blocks, report.total):
        inside = [matrix for name, matrix in deltas.items() if group.name in ("all", dense.block_of(name))]
        energy = sum(float((matrix**2).sum()) for matrix in inside)
        spectra = [np.linalg.svd(matrix, compute_uv=False) for matrix in inside]
        shares = [values[values > 1e-12 * values[0]] / values.sum() for values in spectra]
        assert group.norm == pytest.approx(np.sqrt(energy), rel=1e-6)
        assert group.share == pytest.approx(energy / total, rel=2e-6)
        effective, top = group.measures["effective_rank"], group.measures["top1_share"]
        assert effective is not None
        assert top is not None
        ranks = [np.exp(-np.sum(share * np.log(share))) for share in shares]
        assert effective.value == pytest.approx(np.mean(ranks), rel=1e-5)
        assert top.value == pytest.approx(sum(values[0] ** 2 for values in spectra) / energy, rel=1e-5)


@settings(max_examples=12)
@given(algorithm=ALGORITHMS, seed=SEEDS, rank=RANKS)
def test_kohyas_forms_hold_every_algorithm(algorithm: str, seed: int, rank: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        source = drawn.write_adapter(folder / "a.safetensors", seed, algorithm, rank)
        convert(Conversion(source, Target(folder / "ldm.safetensors", "ldm")), MANAGER)
        convert(Conversion(folder / "ldm.safetensors", Target(folder / "kohya.safetensors")), MANAGER)
        convert(Conversion(source, Target(folder / "half.safetensors", dtype="fp16")), MANAGER)
        expected = dense.deltas(source)
        assert_near(dense.deltas(folder / "kohya.safetensors"), expected, SINGLE)
        # Of products of two or three factors, each of which is rounded.
        assert_near(dense.deltas(folder / "half.safetensors"), expected, 4 * HALF)


@settings(max_examples=12)
@given(algorithm=st.sampled_from(["lora", "tucker"]), seed=SEEDS, rank=RANKS)
def test_other_forms_hold_lora_and_lead_back(algorithm: str, seed: int, rank: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        source = drawn.write_adapter(folder / "a.safetensors", seed, algorithm, rank)
        expected = dense.deltas(source)
        for form, path in (("diffusers", folder / "diffusers.safetensors"), ("peft", folder / "peft")):
            convert(Conversion(source, Target(path, form)), MANAGER)
            files = [path] if form == "diffusers" else sorted(path.glob("*/*.safetensors"))
            found = {name: matrix for file in files for name, matrix in renamed(dense.deltas(file)).items()}
            assert_near(found, renamed(expected), SINGLE)
        convert(Conversion(folder / "diffusers.safetensors", Target(folder / "back.safetensors")), MANAGER)
        assert_near(dense.deltas(folder / "back.safetensors"), expected, SINGLE)


def renamed(deltas: Deltas) -> dict[str, dense.Array]:
    """Return deltas by names without the level `text_model` and the model, which forms of PEFT leave out."""
    short = {"lora_unet_encoder": "encoder", "lora_te_text_model_": "", "lora_unet_": "", "lora_te_": ""}
    names = {}
    for name in deltas:
        prefix = next(prefix for prefix in short if name.startswith(prefix))
        names[name] = short[prefix] + name.removeprefix(prefix)
    return {names[name]: matrix for name, matrix in deltas.items()}


@settings(max_examples=20)
@given(algorithm=ALGORITHMS, seed=SEEDS, ranks=st.tuples(RANKS, st.sampled_from([1, 2, 5])))
def test_truncations_are_as_near_as_any_of_their_rank(algorithm: str, seed: int, ranks: tuple[int, int]) -> None:
    own, rank = ranks
    with TemporaryDirectory() as name:
        folder = Path(name)
        source = drawn.write_adapter(folder / "a.safetensors", seed, algorithm, own)
        convert(Conversion(source, Target(folder / "b.safetensors"), rank=rank), MANAGER)
        found, expected = dense.deltas(folder / "b.safetensors"), dense.deltas(source)
    assert found.keys() == expected.keys()
    for module, matrix in expected.items():
        values = np.linalg.svd(matrix, compute_uv=False)
        error, best = np.linalg.norm(found[module] - matrix), np.linalg.norm(values[rank:])
        norm = np.linalg.norm(values)
        assert np.linalg.svd(found[module], compute_uv=False)[rank] <= SINGLE * norm
        # Randomised for large matrices, to 2e-5 of the energy.
        assert error**2 <= best**2 + 2e-5 * norm**2


@settings(max_examples=15)
@given(kinds=st.tuples(ALGORITHMS, ALGORITHMS), seed=SEEDS, scales=st.tuples(SCALES, SCALES))
def test_merges_by_sum_and_ties(kinds: tuple[str, str], seed: int, scales: tuple[float, float]) -> None:
    """With the rank of the smaller side a merge is exact whatever its algorithms."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = tuple(
            drawn.write_adapter(folder / f"{number}.safetensors", seed + number, kind, 2)
            for number, kind in enumerate(kinds)
        )
        a, b = map(dense.deltas, files)
        for method, expected in (
            (Method(), {name: scales[0] * a[name] + scales[1] * b[name] for name in a}),
            (Method("ties", 0.3), {name: dense.ties([scales[0] * a[name], scales[1] * b[name]], 0.3) for name in a}),
        ):
            recipe = MergeRecipe(files, tuple(map(str, scales)), method)
            merge(recipe, Target(folder / "m.safetensors", overwrite=True), MANAGER, rank=39)
            assert_near(dense.deltas(folder / "m.safetensors"), expected, 1e-5)


@settings(max_examples=8)
@given(algorithm=ALGORITHMS, seed=SEEDS, density=st.sampled_from([0.3, 0.8]))
def test_merges_by_dare_drop_numbers_and_scale_the_others(algorithm: str, seed: int, density: float) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        a, b = (drawn.write_adapter(folder / f"{part}.safetensors", seed + part, algorithm, 2) for part in (0, 1))
        recipe = MergeRecipe((a, b), ("1", "1"), Method("dare", density, seed % 1000))
        merge(recipe, Target(folder / "m.safetensors"), MANAGER, rank=39)
        found, deltas = dense.deltas(folder / "m.safetensors"), (dense.deltas(a), dense.deltas(b))
    kept, count = 0, 0
    for module, matrix in found.items():
        first, second = (of[module] / density for of in deltas)
        # Each number is the sum of what is kept of both: none, one or both of them.
        choices = np.abs(matrix - np.stack([0 * first, first, second, first + second]))
        assert choices.min(axis=0).max() <= 1e-5 * np.abs(first).max()
        which = choices.argmin(axis=0)
        kept, count = (
            kept + int((which == 1).sum() + (which == 2).sum() + 2 * (which == 3).sum()),
            count + 2 * which.size,
        )
    # Six standard deviations of the number that is kept.
    assert abs(kept - density * count) <= 6 * np.sqrt(count * density * (1 - density))
