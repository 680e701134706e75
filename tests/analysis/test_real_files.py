"""Adapters that other people trained."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from bwlab_analysis.conflict import measure_conflict
from bwlab_analysis.norms import measure_norms
from bwlab_analysis.pairs import COSINE, IN_OVERLAP, OUT_OVERLAP, SIGN_CONFLICT
from bwlab_analysis.spectrum import EFFECTIVE_RANK, TOP1_SHARE
from bwlab_analysis.verdict import shares_initialisation, verdict
from tests.analysis.conftest import Outcome
from tests.analysis.kohya import kohya, write

LORAS = Path(__file__).parents[3] / "shared" / "loras"
OLDEST = re.compile(r"(.*)\.processor\.(to_\w+)_lora\.(down|up)\.weight")
OLDER = re.compile(r"unet\.(.*)\.lora\.(down|up)\.weight")


def real_file(name: str) -> Path:
    if not (LORAS / name).is_file():
        pytest.skip(f"{name} is not in ../shared/loras")
    return LORAS / name


def kohya_key(key: str) -> str:
    """The kohya key of a key of either diffusers dialect."""
    if old := OLDER.fullmatch(key):
        return f"{kohya(old[1])}.lora_{old[2]}.weight"
    oldest = OLDEST.fullmatch(key)
    assert oldest is not None, key
    layer = "to_out.0" if oldest[2] == "to_out" else oldest[2]
    return f"{kohya(oldest[1] + '.' + layer)}.lora_{oldest[3]}.weight"


def as_kohya(name: str, folder: Path) -> Path:
    tensors = load_file(real_file(name))
    return write(folder / name, {kohya_key(key): tensor for key, tensor in tensors.items()})


@pytest.mark.parametrize("name", ["lycorisfork__smart_falcon_4_lokr", "lycorisfork__smart_falcon_16_lokr"])
def test_lokr_is_named_not_skipped(bwlab: Callable[..., Outcome], name: str) -> None:
    outcome = bwlab("analyze", "norms", real_file(f"{name}.safetensors"))
    assert outcome.code == 2
    assert "LoKr, whose norms are not read yet: lora_te_text_model_" in outcome.err
    assert "and 349 more" in outcome.err


def test_two_unrelated_lora_files(tmp_path: Path) -> None:
    a = as_kohya("catundchat__pytorch_lora_weights.safetensors", tmp_path)
    b = as_kohya("thuyptt__models_pytorch_lora_weights.safetensors", tmp_path)
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
    assert "says nothing about conflict" in verdict(report)[0]
