"""Norms relative to a base's weights, against the layers that the adapter makes in the loaded base."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bwlab.adapters.load import load_adapter
from bwlab.base.load import base_scheme, load_base
from bwlab.base.models import text_encoders
from bwlab.base.weights import open_model
from bwlab.plugins.manager import build_manager
from bwlab_analysis.weights.adapter_weights import kind_of
from bwlab_analysis.weights.conflict import measure_conflict
from bwlab_analysis.weights.norms import GroupNorms, measure_norms
from bwlab_analysis.weights.pair_measures import COSINE
from tests.analysis.conftest import Outcome
from tests.analysis.kohya import kohya, write
from tests.analysis.small_bases import ALGORITHMS, adapter_file

Run = Callable[..., Outcome]
BLOCKS = ("mid_block.", "up_blocks.0.")


def dense_norms(base: Path | str, adapter: Path) -> dict[str, tuple[float, float]]:
    """Module path -> norms of the delta and of the weight, from the loaded model in float64."""
    pipe, manager = load_base(base), build_manager()
    encoders = text_encoders(pipe)
    loaded = load_adapter(
        adapter, pipe.unet, manager, base_scheme(pipe, manager.block_schemes()), text_encoder=encoders
    )
    found = {}
    for path, layer in loaded.layers.items():
        weight = pipe.unet.get_submodule(path).weight.detach()
        delta = layer.delta(weight).detach().double()
        found[path] = float(delta.norm()), float(weight.double().norm())
    return found


def check(group: GroupNorms, norms: dict[str, tuple[float, float]], paths: list[str]) -> None:
    own, base = (math.sqrt(sum(norms[path][side] ** 2 for path in paths)) for side in (0, 1))
    assert group.norm == pytest.approx(own, rel=1e-5)
    assert group.base_norm == pytest.approx(base, rel=1e-6)
    assert group.relative == pytest.approx(own / base, rel=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_norms_are_those_of_the_layers_in_the_model(small_base: Path, tmp_path: Path, algorithm: str) -> None:
    unet = load_base(small_base).unet
    file = adapter_file(tmp_path / "a.safetensors", unet, algorithm, BLOCKS, 0)
    norms = dense_norms(small_base, file)
    report = measure_norms(file, [], None, open_model(small_base))
    assert report.left_out == ()
    assert {one.name for one in report.modules} == set(norms)
    for module in report.modules:
        check(module, norms, [module.name])
    for kind in report.kinds:
        check(kind, norms, [path for path in norms if kind_of(path) == kind.name])
    assert [block.name for block in report.blocks] == ["mid", "out0"]
    for block, start in zip(report.blocks, BLOCKS, strict=True):
        check(block, norms, [path for path in norms if path.startswith(start)])
    check(report.total, norms, list(norms))


def test_without_a_base_nothing_is_relative(small_base: Path, tmp_path: Path) -> None:
    file = adapter_file(tmp_path / "a.safetensors", load_base(small_base).unet, "lora", BLOCKS, 0)
    report = measure_norms(file, [])
    assert (report.base, report.total.base_norm, report.total.relative) == (None, None, None)


def test_turned_weights_keep_their_norm(small_base: Path, tmp_path: Path) -> None:
    """An orthogonal R gives |R W| = |W|: the delta R W - W is at most twice as long as W, and here not 0."""
    file = adapter_file(tmp_path / "a.safetensors", load_base(small_base).unet, "oft", BLOCKS, 0)
    for module in measure_norms(file, [], None, open_model(small_base)).modules:
        assert module.relative is not None
        assert 0 < module.relative <= 2


def test_two_of_oft_are_compared_with_a_base(small_base: Path, tmp_path: Path) -> None:
    unet = load_base(small_base).unet
    a, b = (adapter_file(tmp_path / f"{seed}.safetensors", unet, "oft", BLOCKS, seed) for seed in (0, 1))
    base = open_model(small_base)
    alike, unlike = (measure_conflict(a, other, [COSINE], None, base).total.measures["cosine"] for other in (a, b))
    assert alike is not None
    assert alike.value == pytest.approx(1, abs=1e-7)
    assert unlike is not None
    assert abs(unlike.value) < 0.99


def test_the_command_tells_table_json_and_report(bwlab: Run, small_base: Path, tmp_path: Path) -> None:
    file = adapter_file(tmp_path / "a.safetensors", load_base(small_base).unet, "oft", BLOCKS, 0)
    table = bwlab("analyze", "norms", file, "--base", small_base, "--cells", "--modules")
    assert table.code == 0, table.err
    assert "of the base" in table.out
    assert "…" not in table.out
    assert max(len(line.rstrip()) for line in table.out.splitlines()[2:]) <= 100
    told = bwlab("analyze", "norms", file, "--base", small_base, "--json", "--report", tmp_path)
    document = json.loads(told.out)
    assert (document["schema_version"], document["base"]) == (2, str(small_base))
    assert document["total"]["relative"] == pytest.approx(document["total"]["norm"] / document["total"]["base_norm"])
    assert len(document["modules"]) == document["total"]["modules"]
    assert "of the base" in (tmp_path / "report.html").read_text()


def test_the_embedded_base(bwlab: Run, tmp_path: Path) -> None:
    file = adapter_file(tmp_path / "a.safetensors", load_base("emoji").unet, "oft", ["mid_block."], 0)
    norms = dense_norms("emoji", file)
    report = measure_norms(file, [], None, open_model("emoji"))
    check(report.total, norms, list(norms))
    assert bwlab("analyze", "norms", file, "--base", "emoji").code == 0


def test_oft_alone_asks_for_its_base(bwlab: Run, small_base: Path, tmp_path: Path) -> None:
    file = adapter_file(tmp_path / "a.safetensors", load_base(small_base).unet, "oft", BLOCKS, 0)
    outcome = bwlab("analyze", "norms", file)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "Give its base model with --base" in outcome.err


def test_what_does_not_fit_the_base_is_told_in_one_line(bwlab: Run, small_base: Path, tmp_path: Path) -> None:
    path = "mid_block.attentions.0.proj_in"
    wide = {f"unet.{path}.lora_{side}.weight": np.ones(shape) for side, shape in (("A", (2, 7)), ("B", (7, 2)))}
    foreign = write(tmp_path / "wide.safetensors", wide)
    weight = load_base(small_base).unet.get_submodule(path).weight
    assert isinstance(weight, torch.Tensor)
    for base, words in ((small_base, "is (7, 7) in the adapter"), (tmp_path / "none", "no such file or folder")):
        outcome = bwlab("analyze", "norms", foreign, "--base", base)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert words in outcome.err


def test_tables_of_whole_deltas_fit_100_columns(bwlab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full ranks of wide layers have four digits, and a rank column that says from where to where."""
    shapes = {"mid_block.attentions.0.proj_in": (1279, 1021), "mid_block.attentions.0.proj_out": (771, 1283)}
    draw = np.random.default_rng(0)
    tensors = {f"{kohya(path)}.diff": draw.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    write(tmp_path / "a.safetensors", tensors)
    monkeypatch.chdir(tmp_path)
    outcome = bwlab("analyze", "norms", "a.safetensors")
    assert outcome.code == 0, outcome.err
    assert "…" not in outcome.out
    assert max(map(len, (line.rstrip() for line in outcome.out.splitlines()))) <= 100
    assert " of 896 " in outcome.out
