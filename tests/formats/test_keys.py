"""Module names go to kohya keys and back, for every layer that UNets and text encoders have."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.blocks.configs import SD14, SD21, SDXL, DenoiserConfig, layer_shapes, meta_unet
from bwlab.errors import BwlabError
from bwlab.formats.keys import kohya_name_of, path_of, unet_path_of

LDM_LEAVES = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def ldm_name(path: str, attention_levels: tuple[int, ...]) -> str:
    """Return the original (LDM) name of a diffusers layer, by the table of CompVis' UNet.

    `attention_levels` are the up blocks that have attentions: there the upsampler is the third part, else the second.
    """
    if match := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv", path):
        return f"input_blocks.{3 * int(match[1]) + 3}.0.op"
    if match := re.fullmatch(r"up_blocks\.(\d)\.upsamplers\.0\.conv", path):
        return f"output_blocks.{3 * int(match[1]) + 2}.{2 if int(match[1]) in attention_levels else 1}.conv"
    match = re.fullmatch(r"(down_blocks|up_blocks|mid_block)(?:\.(\d))?\.(resnets|attentions)\.(\d)\.(.+)", path)
    assert match is not None, path
    side, level, kind, pair, leaf = match.groups()
    leaf = LDM_LEAVES.get(leaf, leaf)
    slot = 0 if kind == "resnets" else 1
    if side == "mid_block":
        return f"middle_block.{2 * int(pair) if kind == 'resnets' else 1}.{leaf}"
    if side == "down_blocks":
        return f"input_blocks.{1 + 3 * int(level) + int(pair)}.{slot}.{leaf}"
    return f"output_blocks.{3 * int(level) + int(pair)}.{slot}.{leaf}"


@pytest.mark.parametrize("config", [SD14, SD21, SDXL])
def test_every_layer_of_a_unet_goes_there_and_back(config: DenoiserConfig) -> None:
    paths = list(layer_shapes(meta_unet(config)))
    assert len(paths) > 250
    assert [path_of(kohya_name_of(path)) for path in paths] == paths


@pytest.mark.parametrize(("config", "attention_levels"), [(SD14, (1, 2, 3)), (SDXL, (0, 1))])
def test_every_ldm_name_is_understood(config: DenoiserConfig, attention_levels: tuple[int, ...]) -> None:
    paths = [path for path in layer_shapes(meta_unet(config)) if "block" in path.split(".")[0]]
    for path in paths:
        name = "lora_unet_" + ldm_name(path, attention_levels).replace(".", "_")
        assert unet_path_of(name) == path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lora_unet_input_blocks_0_0", "conv_in"),
        ("lora_unet_out_2", "conv_out"),
        ("lora_unet_time_embed_2", "time_embedding.linear_2"),
        ("lora_unet_label_emb_0_0", "add_embedding.linear_1"),
        ("lora_te_text_model_encoder_layers_11_self_attn_out_proj", "te.encoder.layers.11.self_attn.out_proj"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc2", "te.encoder.layers.0.mlp.fc2"),
        ("lora_te2_text_model_encoder_layers_31_self_attn_q_proj", "te2.encoder.layers.31.self_attn.q_proj"),
        ("lora_te2_text_projection", "te2.text_projection"),
    ],
)
def test_names_outside_the_blocks(name: str, path: str) -> None:
    assert path_of(name) == path


def test_text_encoder_names_follow_the_number_of_encoders() -> None:
    path = "te.encoder.layers.3.self_attn.k_proj"
    assert kohya_name_of(path) == "lora_te_text_model_encoder_layers_3_self_attn_k_proj"
    assert kohya_name_of(path, two_text_encoders=True) == "lora_te1_text_model_encoder_layers_3_self_attn_k_proj"
    assert kohya_name_of("te2.text_projection") == "lora_te2_text_projection"


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_double_blocks_0_img_attn_qkw",
        "lora_unet_",
        "lora_unet_unet_down_blocks_0_resnets_0_conv1",
        "lora_unet_middle_block_7_proj_in",
        "lora_unet_output_blocks_3_5_proj_in",
        "lora_unet_input_blocks_0_0_op",
        "lora_unet_input_blocks_0_0_in_layers_2",
        "lora_unet_input_blocks_4_0_op",
        "lora_unet_input_blocks_3_0_in_layers_2",
        "lora_unet_output_blocks_4_1_conv",
        "lora_te_text_model_encoder_layers_0_mlp_fc3",
        "conv_in_",
    ],
)
def test_a_name_of_no_such_layer_is_an_error_that_quotes_it(name: str) -> None:
    with pytest.raises(BwlabError, match=re.escape(repr(name))):
        path_of(name)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_0123456789", max_size=40))
def test_any_name_has_a_path_that_leads_back_or_is_an_error(name: str) -> None:
    try:
        path = unet_path_of(name)
    except BwlabError:
        return
    assert unet_path_of(kohya_name_of(path)) == path
