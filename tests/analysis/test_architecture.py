"""The UNet family of a file, from its modules, their shapes and its metadata."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab_analysis.architecture import scheme_of, text_widths

READS_TEXT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
BOTH = "down_blocks.1.resnets.0.conv1"


@pytest.mark.parametrize(
    ("module", "width", "scheme"),
    [
        ("up_blocks.3.resnets.0.conv1", 5, "sd"),
        ("down_blocks.0.attentions.0.proj_in", 5, "sd"),
        ("up_blocks.2.attentions.0.proj_in", 5, "sd"),
        ("down_blocks.3.resnets.0.conv1", 5, "sd"),
        ("down_blocks.2.downsamplers.0.conv", 5, "sd"),
        ("up_blocks.2.upsamplers.0.conv", 5, "sd"),
        (READS_TEXT, 768, "sd"),
        (READS_TEXT, 1024, "sd"),
        (READS_TEXT, 128, "sd"),
        (READS_TEXT, 2048, "sdxl"),
        ("te2.encoder.layers.0.mlp.fc1", 5, "sdxl"),
        ("up_blocks.0.attentions.1.proj_in", 5, "sdxl"),
        ("down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q", 5, "sdxl"),
        (BOTH, 5, "sd"),
    ],
)
def test_one_telling_module_decides(module: str, width: int, scheme: str) -> None:
    assert scheme_of(Path("a"), {BOTH: (3, 5), module: (7, width)}, {}).name == scheme


def test_metadata_decides_where_modules_do_not() -> None:
    undecided, sd = {BOTH: (3, 5)}, {"up_blocks.3.resnets.0.conv1": (3, 5)}
    assert scheme_of(Path("a"), undecided, {"ss_base_model_version": "sdxl_base_v1-0"}).name == "sdxl"
    assert scheme_of(Path("a"), undecided, {"bwlab.scheme": "sdxl"}).name == "sdxl"
    assert scheme_of(Path("a"), undecided, {"ss_base_model_version": "sd_v1"}).name == "sd"
    assert scheme_of(Path("a"), sd, {"bwlab.scheme": "sdxl"}).name == "sd"


def test_modules_of_both_families_are_refused() -> None:
    shapes = {"up_blocks.3.resnets.0.conv1": (3, 5), "up_blocks.0.attentions.0.proj_in": (3, 5)}
    with pytest.raises(BwlabError, match="one model"):
        scheme_of(Path("a"), shapes, {})


def test_text_widths_are_read_from_cross_attention_only() -> None:
    assert text_widths({READS_TEXT: (7, 768), READS_TEXT.replace("attn2", "attn1"): (7, 5)}) == {768}
