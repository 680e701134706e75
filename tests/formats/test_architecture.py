"""The model that a file was made for, from its modules, their shapes and its metadata."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab.formats.architecture import architecture_of, scheme_of

READS_TEXT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
BOTH = "down_blocks.1.resnets.0.conv1"


@pytest.mark.parametrize(
    ("module", "width", "architecture"),
    [
        ("up_blocks.3.resnets.0.conv1", 5, "unknown"),
        ("down_blocks.0.attentions.0.proj_in", 5, "unknown"),
        ("up_blocks.2.attentions.0.proj_in", 5, "unknown"),
        ("down_blocks.3.resnets.0.conv1", 5, "unknown"),
        ("down_blocks.2.downsamplers.0.conv", 5, "unknown"),
        ("up_blocks.2.upsamplers.0.conv", 5, "unknown"),
        (READS_TEXT, 768, "sd1"),
        (READS_TEXT, 1024, "sd2"),
        (READS_TEXT, 128, "unknown"),
        (READS_TEXT, 2048, "sdxl"),
        ("te2.encoder.layers.0.mlp.fc1", 5, "sdxl"),
        ("up_blocks.0.attentions.1.proj_in", 5, "sdxl"),
        ("down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q", 5, "sdxl"),
        (BOTH, 5, "unknown"),
    ],
)
def test_one_telling_module_decides(module: str, width: int, architecture: str) -> None:
    assert architecture_of(Path("a"), {BOTH: (3, 5), module: (7, width)}, {}) == architecture


def test_the_text_encoder_decides_where_the_unet_does_not() -> None:
    query = "te.encoder.layers.0.self_attn.q_proj"
    assert architecture_of(Path("a"), {query: (7, 768)}, {}) == "sd1"
    assert architecture_of(Path("a"), {query: (7, 1024)}, {}) == "sd2"
    assert architecture_of(Path("a"), {query: (7, 768)}, {"ss_base_model_version": "sdxl_base_v1-0"}) == "sdxl"
    assert architecture_of(Path("a"), {query: (7, 768), READS_TEXT: (3, 1024)}, {}) == "sd2"


def test_metadata_decides_where_modules_do_not() -> None:
    undecided, sd = {BOTH: (3, 5)}, {"up_blocks.3.resnets.0.conv1": (3, 5)}
    for metadata, architecture in (
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"bwlab.scheme": "sdxl"}, "sdxl"),
        ({"ss_base_model_version": "sd_v1"}, "sd1"),
        ({"ss_v2": "True"}, "sd2"),
        ({"ss_v2": "False"}, "sd1"),
        ({}, "unknown"),
    ):
        assert architecture_of(Path("a"), undecided, metadata) == architecture
    assert architecture_of(Path("a"), sd, {"bwlab.scheme": "sdxl"}) == "unknown"
    assert architecture_of(Path("a"), {BOTH: None, READS_TEXT: None}, {"ss_v2": "True"}) == "sd2"


def test_modules_of_both_families_are_refused() -> None:
    shapes = {"up_blocks.3.resnets.0.conv1": (3, 5), "up_blocks.0.attentions.0.proj_in": (3, 5)}
    with pytest.raises(BwlabError, match="one model"):
        architecture_of(Path("a"), shapes, {})


def test_the_scheme_of_an_unknown_architecture_is_that_of_sd() -> None:
    assert [scheme_of(name, {}).name for name in ("sd1", "sd2", "sdxl", "unknown")] == ["sd", "sd", "sdxl", "sd"]
