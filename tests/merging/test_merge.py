"""Merged adapters against dense sums in float64."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bwlab.plugins.builtin
from bwlab.errors import BwlabError
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import open_adapter_file
from bwlab.formats.tensors import in_dtype
from bwlab.linalg.factored import Array
from bwlab.linalg.sparse_merges import dare, module_generator, ties
from bwlab.merging.merge import MergeRecipe, merge
from bwlab.merging.methods import Method
from bwlab.merging.output import Outcome, Target
from bwlab.plugins.manager import PluginManager, build_manager
from tests.formats.lycoris_made import CASES, write_case
from tests.merging.made import IN0, IN1, MID, OUT3, SHAPES, TE, adapter, deltas, lora, relative, written

A = {IN0: 3, OUT3: 2, MID: 5}
B = {IN0: 2, MID: 1, IN1: 7, TE: 3}
EXACT = 1e-6


def merged(folder: Path, recipe: MergeRecipe, manager: PluginManager, rank: int | None = None) -> dict[str, Array]:
    """Return the deltas of a merge."""
    out = folder / "merged.safetensors"
    merge(recipe, Target(out, overwrite=True), manager, rank=rank)
    return deltas(out)


def added(*terms: tuple[float, dict[str, Array]]) -> dict[str, Array]:
    """Return the dense sum of scaled deltas."""
    total: dict[str, Array] = {}
    for scale, found in terms:
        for path, delta in found.items():
            total[path] = total.get(path, 0.0) + scale * delta
    return total


def same(a: dict[str, Array], b: dict[str, Array], tolerance: float = EXACT) -> bool:
    return set(a) == set(b) and all(relative(a[path], b[path]) < tolerance for path in b)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two adapters that share two of six modules, with unlike ranks and alphas."""
    return adapter(tmp_path, "a", A, seed=1, alpha=2.0), adapter(tmp_path, "b", B, seed=2, alpha=None)


def test_a_sum_is_exact(tmp_path: Path, pair: tuple[Path, Path], manager: PluginManager) -> None:
    a, b = map(deltas, pair)
    recipe = MergeRecipe(pair, ("0.7", "-1.3"))
    assert same(merged(tmp_path, recipe, manager), added((0.7, a), (-1.3, b)))
    ranks = {path: one.rank() for path, one in read_contents(tmp_path / "merged.safetensors").modules.items()}
    assert ranks == {IN0: 5, OUT3: 2, MID: 6, IN1: 7, TE: 3}


def test_scales_by_block(tmp_path: Path, pair: tuple[Path, Path], manager: PluginManager) -> None:
    a, b = map(deltas, pair)
    found = merged(tmp_path, MergeRecipe(pair, ("upper=0.5, mid=0", "te=0, *=2")), manager)
    assert same(
        found, added((1.0, {IN0: 0.5 * a[IN0], OUT3: 0.5 * a[OUT3]}), (2.0, {p: b[p] for p in (IN0, MID, IN1)}))
    )


def test_a_choice_of_blocks(tmp_path: Path, pair: tuple[Path, Path], manager: PluginManager) -> None:
    a, b = map(deltas, pair)
    found = merged(tmp_path, MergeRecipe(pair, ("3",), Method("blocks"), "upper=A, mid=A+B, te=none, *=B"), manager)
    assert same(found, {IN0: 3 * a[IN0], OUT3: 3 * a[OUT3], MID: 3 * a[MID] + b[MID], IN1: b[IN1]})


SCALES = st.floats(-3, 3).map(lambda number: round(number, 3)).filter(lambda number: number != 0)
RANKS = st.dictionaries(st.sampled_from(sorted(SHAPES)), st.integers(1, 5), min_size=1)
MANAGER = build_manager([bwlab.plugins.builtin], installed=False)


@settings(max_examples=25)
@given(RANKS, RANKS, SCALES, SCALES, st.integers(0, 99))
def test_identities(a_ranks: dict[str, int], b_ranks: dict[str, int], s: float, t: float, seed: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        a, b = adapter(folder, "a", a_ranks, seed), adapter(folder, "b", b_ranks, seed + 1, alpha=1.5)
        dense = added((s, deltas(a)), (t, deltas(b)))
        forward = merged(folder, MergeRecipe((a, b), (repr(s), repr(t))), MANAGER)
        assert same(forward, dense)
        assert same(merged(folder, MergeRecipe((b, a), (repr(t), repr(s))), MANAGER), forward)
        assert same(merged(folder, MergeRecipe((a, b), ("1", "0")), MANAGER), deltas(a))
        assert same(merged(folder, MergeRecipe((a,)), MANAGER), deltas(a))
        assert same(merged(folder, MergeRecipe((a, a), ("0.25", "0.75")), MANAGER), deltas(a))
        reduced = merged(folder, MergeRecipe((a, b), (repr(s), repr(t))), MANAGER, rank=2)
        for path, delta in dense.items():
            values = np.linalg.svd(delta, compute_uv=False)
            assert np.linalg.matrix_rank(reduced[path], tol=1e-4 * values[0]) <= 2
            assert np.sum((reduced[path] - delta) ** 2) <= np.sum(values[2:] ** 2) + 1e-8 * np.sum(values**2)


def test_opposites_cancel(tmp_path: Path, pair: tuple[Path, Path], manager: PluginManager) -> None:
    recipe = MergeRecipe((pair[0], pair[0]), ("1", "-1"))
    with pytest.raises(BwlabError, match="every delta of the result is zero"):
        merged(tmp_path, recipe, manager, rank=2)
    found = merged(tmp_path, MergeRecipe((pair[0], pair[0]), ("1", "upper=-1")), manager, rank=5)
    assert same(found, {MID: 2 * deltas(pair[0])[MID]})


@pytest.mark.parametrize("name", ["ties", "dare"])
def test_dense_methods(tmp_path: Path, pair: tuple[Path, Path], manager: PluginManager, name: str) -> None:
    a, b = map(deltas, pair)
    recipe = MergeRecipe(pair, ("0.5", "2"), Method(name, 0.4, seed=3))
    found = merged(tmp_path, recipe, manager, rank=64)  # full rank: nothing is lost
    for path in {**a, **b}:
        parts = [
            (place, scale * delta[path]) for place, (scale, delta) in enumerate(((0.5, a), (2.0, b))) if path in delta
        ]
        if name == "ties":
            expected = ties([delta for _, delta in parts], 0.4)
        else:
            drawn = [dare(delta, 0.4, module_generator(3, place, path)) for place, delta in parts]
            expected = np.asarray(np.sum(drawn, axis=0), np.float64)
        assert relative(found[path], expected) < EXACT


def test_dare_of_everything_is_the_sum(tmp_path: Path, pair: tuple[Path, Path], manager: PluginManager) -> None:
    found = merged(tmp_path, MergeRecipe(pair, (), Method("dare", 1.0)), manager, rank=64)
    assert same(found, added((1.0, deltas(pair[0])), (1.0, deltas(pair[1]))))


def outcome_of(folder: Path, recipe: MergeRecipe, manager: PluginManager, rank: int) -> Outcome:
    return merge(recipe, Target(folder / "merged.safetensors", overwrite=True), manager, rank=rank)


def test_the_error_told_is_the_error_made(tmp_path: Path, pair: tuple[Path, Path], manager: PluginManager) -> None:
    dense = added((1.0, deltas(pair[0])), (1.0, deltas(pair[1])))
    outcome = outcome_of(tmp_path, MergeRecipe(pair), manager, 3)
    found = deltas(tmp_path / "merged.safetensors")
    for fit in outcome.fits:
        assert fit.energy == pytest.approx(float(np.sum(dense[fit.path] ** 2)))
        assert fit.lost == pytest.approx(float(np.sum((dense[fit.path] - found[fit.path]) ** 2)), rel=1e-4, abs=1e-7)
    assert {fit.path: fit.before for fit in outcome.fits} == {IN0: 5, OUT3: 2, MID: 6, IN1: 7, TE: 3}


def test_lycoris_modules_are_added(tmp_path: Path, manager: PluginManager) -> None:
    named = {case.name: write_case(case, tmp_path) for case in CASES}
    a, b = deltas(named["lora"]), deltas(named["full"])
    with pytest.raises(BwlabError, match=r"the result \(full, lora\) is dense\. Give the rank of the result"):
        merged(tmp_path, MergeRecipe((named["lora"], named["full"])), manager)
    assert same(merged(tmp_path, MergeRecipe((named["lora"], named["full"])), manager, rank=64), added((1, a), (1, b)))
    assert same(merged(tmp_path, MergeRecipe((named["full"], named["full"]), ("2",)), manager), added((3, b)))
    norms = merged(tmp_path, MergeRecipe((named["norm"], named["norm"]), ("2",)), manager)
    assert same(norms, added((3, deltas(named["norm"]))))


def test_one_adapter_keeps_its_algorithm(tmp_path: Path, manager: PluginManager) -> None:
    source = write_case(next(case for case in CASES if case.name == "loha"), tmp_path)
    merge(MergeRecipe((source,), ("0.5",)), Target(tmp_path / "b.safetensors"), manager)
    assert {one.algorithm for one in read_contents(tmp_path / "b.safetensors").modules.values()} == {"loha"}
    assert same(deltas(tmp_path / "b.safetensors"), added((0.5, deltas(source))))


def test_biases_are_added(tmp_path: Path, manager: PluginManager) -> None:
    one, other = lora(IN0, 2, 2.0, 1), lora(IN0, 3, 2.0, 2)
    bias = {"diff_b": in_dtype(np.arange(11, dtype=np.float32), "F32")}
    a = written(tmp_path / "a.safetensors", [ModuleWeights(IN0, "lora", {**one.leaves, **bias}, 2.0)])
    b = written(tmp_path / "b.safetensors", [other])
    for recipe in (MergeRecipe((a, b), ("2", "1")), MergeRecipe((a,), ("2",))):
        merge(recipe, Target(tmp_path / "m.safetensors", overwrite=True), manager)
        change = read_contents(tmp_path / "m.safetensors").modules[IN0].bias_delta()
        assert change is not None
        assert np.allclose(change, 2 * np.arange(11))


def test_metadata_says_how_it_was_made(tmp_path: Path, manager: PluginManager) -> None:
    told = {"ss_base_model_version": "sd_v1", "ss_v2": "False"}
    a = written(tmp_path / "a.safetensors", [lora(IN0, 2, 2.0, 1)], {**told, "ss_seed": "1"})
    b = written(tmp_path / "b.safetensors", [lora(IN0, 3, 2.0, 2)], {**told, "ss_seed": "2"})
    merge(MergeRecipe((a, b), ("upper=0.5",)), Target(tmp_path / "m.safetensors"), manager, rank=4)
    found = open_adapter_file(tmp_path / "m.safetensors").metadata
    assert {key: found.get(key) for key in ("ss_base_model_version", "ss_v2", "ss_seed")} == {**told, "ss_seed": None}
    step = json.loads(found["bwlab.history"])[-1]
    assert (step["command"], step["adapters"], step["scales"], step["rank"], step["method"]) == (
        "merge",
        ["a.safetensors", "b.safetensors"],
        ["upper=0.5"],
        4,
        "sum",
    )


@pytest.mark.parametrize(
    ("method", "recorded"),
    [
        (Method("dare", seed=7), {"density": 0.5, "seed": 7}),
        (Method("dare", 0.3), {"density": 0.3, "seed": 0}),
        (Method("ties"), {"density": 0.2}),
        (Method(), {}),
    ],
)
def test_what_a_method_drew_can_be_made_again(
    tmp_path: Path, manager: PluginManager, method: Method, recorded: dict[str, object]
) -> None:
    files = [written(tmp_path / f"{seed}.safetensors", [lora(IN0, 2, 2.0, seed)]) for seed in (1, 2)]
    merge(MergeRecipe(tuple(files), (), method), Target(tmp_path / "m.safetensors"), manager, rank=4)
    step = json.loads(open_adapter_file(tmp_path / "m.safetensors").metadata["bwlab.history"])[-1]
    assert {key: step[key] for key in ("density", "seed") if key in step} == recorded


def test_adapters_of_two_architectures(tmp_path: Path, manager: PluginManager) -> None:
    narrow = lora(IN1, 2, 2.0, 0, (23, 768))
    wide = lora(IN1, 2, 2.0, 0, (23, 1024))
    paths = (written(tmp_path / "a.safetensors", [narrow]), written(tmp_path / "b.safetensors", [wide]))
    with pytest.raises(BwlabError, match=r"a\.safetensors is for sd1, b\.safetensors for sd2"):
        merged(tmp_path, MergeRecipe(paths), manager)
    odd = written(tmp_path / "c.safetensors", [lora(IN0, 2, 2.0, 0, (11, 5))])
    other = written(tmp_path / "d.safetensors", [lora(IN0, 2, 2.0, 0)])
    with pytest.raises(BwlabError, match=r"is \(11, 5\) in .*c\.safetensors and \(11, 7\) in .*d\.safetensors"):
        merged(tmp_path, MergeRecipe((odd, other)), manager)


@pytest.mark.parametrize(
    ("recipe", "rank", "message"),
    [
        (MergeRecipe((), ("1", "1", "1")), None, "--scale: 3 scales for 2 adapters"),
        (MergeRecipe((), ("uper=1",)), None, "block 'uper'"),
        (MergeRecipe((), (), Method("tie")), None, "--method tie: no such method. Known: sum, ties, dare, blocks"),
        (MergeRecipe((), (), Method("sum", 0.5)), None, "a sum keeps all numbers"),
        (MergeRecipe((), (), Method("ties", 0.0)), 2, "--density 0: out of range"),
        (MergeRecipe((), (), Method("ties", 1.5)), 2, "--density 1.5: out of range"),
        (MergeRecipe((), (), Method("ties")), None, r"by ties is dense\. Give the rank of the result \(--rank N\)"),
        (MergeRecipe((), (), Method("blocks")), None, "no choice of blocks"),
        (MergeRecipe((), (), Method("dare"), "*=A"), 2, "--method dare needs every block"),
        (MergeRecipe((), (), Method(), "*=none"), None, "every delta of the result is zero"),
        (MergeRecipe(()), 0, "--rank 0: out of range"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, pair: tuple[Path, Path], manager: PluginManager, recipe: MergeRecipe, rank: int | None, message: str
) -> None:
    with pytest.raises(BwlabError, match=message):
        merged(tmp_path, dataclasses.replace(recipe, adapters=pair), manager, rank)
    assert not (tmp_path / "merged.safetensors").exists()


def test_adapters_that_share_nothing(tmp_path: Path, manager: PluginManager) -> None:
    a, b = adapter(tmp_path, "a", {IN0: 2}), adapter(tmp_path, "b", {MID: 3})
    outcome = merge(MergeRecipe((a, b)), Target(tmp_path / "m.safetensors"), manager)
    assert outcome.notes == ("the adapters share no module, so the modules of each are unchanged",)
    with pytest.raises(BwlabError, match="the adapters share no module, so there is no conflict to resolve"):
        outcome_of(tmp_path, MergeRecipe((a, b), (), Method("ties")), manager, 2)


def test_oft_needs_a_base(tmp_path: Path, manager: PluginManager) -> None:
    source = write_case(next(case for case in CASES if case.name == "diag-oft"), tmp_path)
    with pytest.raises(BwlabError, match=r"is dense\. Give the rank"):
        merged(tmp_path, MergeRecipe((source, source)), manager)
    with pytest.raises(BwlabError, match="no base model was given"):
        merged(tmp_path, MergeRecipe((source, source)), manager, rank=3)
