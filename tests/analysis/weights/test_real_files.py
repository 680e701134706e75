"""Adapters that other people trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab_analysis.report.verdict import shares_initialisation, weights_verdict
from bwlab_analysis.weights.conflict import measure_conflict
from bwlab_analysis.weights.norms import EFFECTIVE_RANK, TOP1_SHARE, measure_norms
from bwlab_analysis.weights.pair_measures import COSINE, IN_OVERLAP, OUT_OVERLAP, SIGN_CONFLICT

LORAS = Path(__file__).parents[4] / "shared" / "loras"


def real_file(name: str) -> Path:
    if not (LORAS / name).is_file():
        pytest.skip(f"{name} is not in ../shared/loras")
    return LORAS / name


def test_lokr_of_350_modules() -> None:
    norms = measure_norms(real_file("lycorisfork__smart_falcon_4_lokr.safetensors"), [])
    assert (norms.scheme, norms.total.modules, norms.total.ranks) == ("sd", 350, (4, 4))
    assert norms.left_out == ()
    assert {block.name: block.modules for block in norms.blocks} == {
        "te": 72, "in0": 31, "in1": 32, "in2": 32, "in3": 6, "mid": 18, "out0": 13, "out1": 49, "out2": 49, "out3": 48
    }  # fmt: skip


def test_two_unrelated_lora_files() -> None:
    a = real_file("catundchat__pytorch_lora_weights.safetensors")
    b = real_file("thuyptt__models_pytorch_lora_weights.safetensors")
    norms = measure_norms(a, [EFFECTIVE_RANK, TOP1_SHARE])
    assert (norms.scheme, norms.total.modules, norms.total.ranks) == ("sd", 128, (4, 4))
    assert [kind.name for kind in norms.kinds] == ["attn1", "attn2"]
    assert norms.empty_blocks == ("te", "in3", "out0", "rest")
    report = measure_conflict(a, b, [COSINE, OUT_OVERLAP, IN_OVERLAP, SIGN_CONFLICT])
    measures = report.total.measures
    cosine, signs = measures["cosine"], measures["sign_conflict"]
    out_overlap, in_overlap = measures["out_overlap"], measures["in_overlap"]
    assert cosine is not None
    assert abs(cosine.value) < 0.011
    assert signs is not None
    assert signs.value == pytest.approx(0.5, abs=0.001)
    assert out_overlap is not None
    assert 1.5 < out_overlap.value < 10
    assert in_overlap is not None
    assert in_overlap.value == pytest.approx(1.0, abs=0.1)
    assert not shares_initialisation(report.total)
    assert "It does not show a conflict." in weights_verdict(report)[0]


@pytest.mark.slow
def test_two_lokr_files_are_at_chance_by_the_spread_of_their_products() -> None:
    a, b = (real_file(f"lycorisfork__smart_falcon_{name}_lokr.safetensors") for name in ("16", "4"))
    told = weights_verdict(measure_conflict(a, b, [COSINE, OUT_OVERLAP, IN_OVERLAP]))
    assert len(told) == 4
    assert all("at chance" in line for line in told)
