"""Schemes are found from the config and put every module into the right block, cell and LBW cell."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest

from bwlab.blocks.configs import SD14, SD21, SDXL
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme, Module
from bwlab.blocks.transformers import TRANSFORMERS
from bwlab.errors import BwlabError
from bwlab.formats.keys import path_of
from bwlab.plugins.manager import build_manager


@pytest.mark.parametrize(("config", "name"), [(SD14, "sd"), (SD21, "sd"), (SDXL, "sdxl")])
def test_the_scheme_comes_from_the_config(config: Mapping[str, object], name: str) -> None:
    as_json = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    assert scheme_for(config).name == scheme_for(as_json).name == name


def test_blocks_of_both_schemes(sd: BlockScheme, sdxl: BlockScheme) -> None:
    assert sd.blocks() == ("te", "in0", "in1", "in2", "in3", "mid", "out0", "out1", "out2", "out3", "rest")
    assert sdxl.blocks() == ("te", "in0", "in1", "in2", "mid", "out0", "out1", "out2", "rest")


@pytest.mark.parametrize(
    ("path", "block", "cell"),
    [
        ("down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q", "in0", "in0.1"),
        ("down_blocks.2.resnets.0.conv1", "in2", "in2.0"),
        ("down_blocks.1.downsamplers.0.conv", "in1", "in1.down"),
        ("mid_block.attentions.0.proj_in", "mid", "mid.0"),
        ("mid_block.resnets.1.conv2", "mid", "mid.1"),
        ("up_blocks.3.resnets.2.conv_shortcut", "out3", "out3.2"),
        ("up_blocks.0.upsamplers.0.conv", "out0", "out0.up"),
        ("conv_in", "rest", "conv_in"),
        ("time_embedding.linear_2", "rest", "time_embedding"),
        ("te.encoder.layers.3.mlp.fc1", "te", "te"),
        ("down_blocks.3.downsamplers.0.conv", None, None),
        ("down_blocks.0.resnets.2.conv1", None, None),
        ("down_blocks.10.resnets.0.conv1", None, None),
        ("te2.encoder.layers.3.mlp.fc1", None, None),
        ("", None, None),
    ],
)
def test_a_layer_of_sd_lies_in_its_block_and_cell(
    sd: BlockScheme, path: str, block: str | None, cell: str | None
) -> None:
    assert (sd.block_of(path), sd.cell_of(path)) == (block, cell)


def test_both_text_encoders_of_sdxl_are_te_and_each_has_a_cell(sdxl: BlockScheme) -> None:
    paths = ["te.encoder.layers.0.mlp.fc1", "te2.encoder.layers.31.mlp.fc1"]
    assert [sdxl.block_of(path) for path in paths] == ["te", "te"]
    assert [sdxl.cell_of(path) for path in paths] == ["te1", "te2"]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("upper", {"in0.0", "in0.1", "in0.down", "out3.0", "out3.1", "out3.2"}),
        ("IN05", {"in1.1"}),
        ("IN03", {"in0.down"}),
        ("IN10", {"in3.0"}),
        ("M00", {"mid.0", "mid.1"}),
        ("OUT02", {"out0.2", "out0.up"}),
        ("OUT11", {"out3.2"}),
        ("IN00", {"conv_in"}),
        ("BASE", {"te"}),
        ("down.1", {"in1.0", "in1.1", "in1.down"}),
        ("mid_block.attentions.0", {"mid.0"}),
    ],
)
def test_a_name_reaches_into_its_cells(sd: BlockScheme, name: str, cells: set[str]) -> None:
    assert sd.expand(name) == cells


@pytest.mark.parametrize("alias", ["down.3", "down_blocks.3"])
def test_aliases_mean_their_block(sd: BlockScheme, alias: str) -> None:
    assert sd.modules_of(alias) == sd.modules_of("in3")


def test_parts_of_sd_are_disjoint_pairs_of_the_two_ways(sd: BlockScheme) -> None:
    parts = [sd.modules_of(part) for part in ("upper", "middle", "lower")]
    assert parts[1] == sd.modules_of("in1") | sd.modules_of("out2")
    assert parts[2] == sd.modules_of("in2") | sd.modules_of("out1")
    assert not any(one & other for one, other in pairwise([*parts, parts[0]]))


def test_all_is_the_unets_blocks_and_the_star_is_everything(sd: BlockScheme) -> None:
    assert sd.modules_of("*") == {module.path for module in sd.modules}
    assert sd.modules_of("*") - sd.modules_of("all") == sd.modules_of("te") | sd.modules_of("rest")


def test_b_loras_parts_of_sdxl_are_transformers_alone(sdxl: BlockScheme) -> None:
    assert sdxl.modules_of("content") == {"up_blocks.0.attentions.0"}
    assert sdxl.modules_of("style") == {"up_blocks.0.attentions.1"}
    with pytest.raises(BwlabError, match="upper"):
        sdxl.modules_of("upper")


def test_lbw_cells_count_as_the_original_code_does(sd: BlockScheme) -> None:
    """The reader of LDM keys was written apart from the schemes, so each checks the other."""
    cells = {f"input_blocks_{i}": f"IN{i:02}" for i in range(1, 12)}
    cells |= {f"output_blocks_{i}": f"OUT{i:02}" for i in range(12)}
    for place, cell in cells.items():
        downsampler = cell in ("IN03", "IN06", "IN09")
        path = path_of(f"lora_unet_{place}_0_op" if downsampler else f"lora_unet_{place}_0_in_layers_2")
        module = sd.module_of(path)
        assert module is not None
        assert module.ldm == cell, path
    for level in range(3):
        up = sd.module_of(path_of(f"lora_unet_output_blocks_{3 * level + 2}_2_conv"))
        assert up is not None
        assert (up.cell, up.ldm) == (f"out{level}.up", f"OUT{3 * level + 2:02}")


def test_one_layer_per_block_has_all_blocks_but_no_lbw_cells(sd: BlockScheme, single: BlockScheme) -> None:
    assert single.blocks() == sd.blocks()
    assert single.expand("in0") == {"in0.0", "in0.down"}
    assert single.expand("out0") == {"out0.0", "out0.1", "out0.up"}
    assert single.ldm_cells() == ()
    with pytest.raises(BwlabError, match="LBW cells exist only where every down block has two resnets"):
        single.modules_of("IN05")


@pytest.mark.parametrize("layers", [3, [2, 2, 2, 2]])
def test_layers_per_block_may_be_any_number(layers: object) -> None:
    scheme = scheme_for({**SD14, "layers_per_block": layers})
    assert ("IN05" in scheme.names()) == (layers == [2, 2, 2, 2])
    assert ("out1.3" in scheme.names()) == (layers == 3)


@pytest.mark.parametrize(
    "change",
    [
        {"layers_per_block": 0},
        {"layers_per_block": True},
        {"layers_per_block": [1, 2, 2, 2]},
        {"layers_per_block": "2"},
        {"mid_block_type": None},
        {"down_block_types": ["DownBlock2D"] * 4},
        {"up_block_types": None},
    ],
)
def test_a_unet_that_no_scheme_fits_is_an_error_that_describes_it(change: dict[str, object]) -> None:
    with pytest.raises(BwlabError, match=r"no known one fits .*CrossAttn"):
        scheme_for({**SD14, **change})


def test_an_empty_config_is_an_error() -> None:
    with pytest.raises(BwlabError, match="no known one fits a config"):
        scheme_for({})


def test_finders_of_plugins_are_asked_first() -> None:
    mine = BlockScheme("mine", (Module("blocks.0", "b0", "b0"), Module("blocks.10", "b10", "b10")), (("all", ("b0",)),))
    assert scheme_for(SD14, [lambda config: None, lambda config: mine]) is mine
    assert mine.block_of("blocks.1.conv") is None
    assert mine.expand("all") == {"b0"}


def test_the_built_in_schemes_are_registered_as_a_plugins_would_be() -> None:
    import bwlab.plugins.builtin

    finders = build_manager([bwlab.plugins.builtin], installed=False).block_schemes()
    assert [finder.name for finder in finders] == ["sd", "sdxl", *TRANSFORMERS]
    assert scheme_for(SDXL, finders).name == "sdxl"


def test_optional_outer_modules_are_there_where_the_config_asks_for_them(sdxl: BlockScheme) -> None:
    assert sdxl.block_of("add_embedding.linear_1") == "rest"
    hidden = scheme_for({**SD14, "encoder_hid_dim": 5, "num_class_embeds": 7})
    assert hidden.block_of("encoder_hid_proj.weight") == hidden.block_of("class_embedding.weight") == "rest"


@pytest.mark.parametrize(("name", "near"), [("uper", "upper"), ("Mid", "mid"), ("IN1", "in1"), ("zzz", None)])
def test_an_unknown_block_names_the_nearest(sd: BlockScheme, name: str, near: str | None) -> None:
    hint = f"Did you mean {near}?" if near else "Known: blocks te, in0"
    with pytest.raises(BwlabError, match=hint):
        sd.expand(name)
