"""`measure_norms` against dense float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bwlab_analysis.measures import BlockMetric, Measured
from bwlab_analysis.weights.adapter_weights import kind_of
from bwlab_analysis.weights.norms import EFFECTIVE_RANK, TOP1_SHARE, GroupNorms, measure_norms
from tests.analysis.kohya import SHAPES, adapter_tensors, dense, of_zeros, write

METRICS = [EFFECTIVE_RANK, TOP1_SHARE]
BLOCKS = {"in0": "down_blocks.0.", "mid": "mid_block.", "out3": "up_blocks.3."}


def check_group(group: GroupNorms, tensors: dict[str, np.ndarray], paths: list[str]) -> None:
    spectra = [np.linalg.svd(dense(tensors, path), compute_uv=False)[:3] for path in paths]
    every = sum(np.linalg.norm(dense(tensors, path)) ** 2 for path in SHAPES)
    own = sum(np.sum(values**2) for values in spectra)
    shares = [values / values.sum() for values in spectra]
    effective = np.mean([np.exp(-np.sum(share * np.log(share))) for share in shares])
    rank, top = group.measures["effective_rank"], group.measures["top1_share"]
    assert rank is not None
    assert top is not None
    assert group.modules == len(paths)
    assert group.norm == pytest.approx(math.sqrt(own), rel=1e-6)
    assert group.share == pytest.approx(own / every, rel=1e-6)
    assert rank.value == pytest.approx(effective, rel=1e-5)
    assert top.value == pytest.approx(sum(values[0] ** 2 for values in spectra) / own, rel=1e-5)
    assert top.details["flat"] == pytest.approx(1 / 3)


def test_every_group_has_the_dense_numbers(tmp_path: Path) -> None:
    tensors = adapter_tensors(0)
    report = measure_norms(write(tmp_path / "a.safetensors", tensors), METRICS)
    assert [group.name for group in report.blocks] == list(BLOCKS)
    for group in report.blocks:
        check_group(group, tensors, [path for path in SHAPES if path.startswith(BLOCKS[group.name])])
    for group in report.kinds:
        check_group(group, tensors, [path for path in SHAPES if kind_of(path) == group.name])
    check_group(report.total, tensors, list(SHAPES))
    assert sum(group.modules for group in report.cells) == len(SHAPES)
    assert report.empty_blocks == ("te", "in1", "in2", "in3", "out0", "out1", "out2", "rest")


def test_ranks_may_differ_and_zero_modules_have_no_spectrum(tmp_path: Path) -> None:
    first, second = "mid_block.attentions.0.proj_in", "mid_block.resnets.0.time_emb_proj"
    tensors = adapter_tensors(0, [first], rank=2) | of_zeros(adapter_tensors(1, [second], rank=5))
    report = measure_norms(write(tmp_path / "a.safetensors", tensors), METRICS)
    assert report.total.ranks == (2, 5)
    proj, time = report.kinds
    assert (proj.name, proj.share, time.name, time.share, time.norm) == ("proj", 1.0, "time", 0.0, 0.0)
    assert time.measures == {"effective_rank": None, "top1_share": None}


def test_an_adapter_of_zeros_has_no_shares(tmp_path: Path) -> None:
    report = measure_norms(write(tmp_path / "a.safetensors", of_zeros(adapter_tensors(0))), METRICS)
    assert report.total.norm == 0.0
    assert report.total.share is None


def test_a_value_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    broken = BlockMetric("broken", "always NaN", lambda delta: {}, lambda modules: Measured(math.nan))
    report = measure_norms(write(tmp_path / "a.safetensors", adapter_tensors(0)), [broken])
    broken_total = report.total.measures["broken"]
    assert broken_total is not None
    assert broken_total.error == "of_block returned nan"
    assert {error.name for error in report.errors} == {"broken"}


def test_no_module_can_use_more_directions_than_its_smaller_side(tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    rng = np.random.default_rng(0)
    parts = {"lora_down": rng.normal(size=(64, 32)), "lora_up": rng.normal(size=(32, 64))}
    file = write(tmp_path / "a.safetensors", {f"{name}.{part}.weight": values for part, values in parts.items()})
    measured = measure_norms(file, [EFFECTIVE_RANK]).total.measures["effective_rank"]
    assert measured is not None
    assert measured.value <= measured.details["of_rank"] == 32


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0", "attn1"),
        ("up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2", "ff"),
        ("up_blocks.1.attentions.0.proj_out", "proj"),
        ("up_blocks.1.resnets.0.conv_shortcut", "conv"),
        ("down_blocks.1.downsamplers.0.conv", "conv"),
        ("conv_in", "conv"),
        ("time_embedding.linear_1", "time"),
        ("te.encoder.layers.0.mlp.fc1", "te"),
        ("te2.encoder.layers.0.self_attn.q_proj", "te"),
        ("transformer_blocks.0.attn2.to_q", "attn"),  # Stable Diffusion 3.5 medium
    ],
)
def test_kinds(path: str, kind: str) -> None:
    assert kind_of(path) == kind
