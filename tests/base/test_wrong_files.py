"""Files that are no checkpoint: each is named in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bwlab.base.header import INPUTS
from bwlab.base.load import load_base
from bwlab.errors import BwlabError

small_bases = pytest.mark.usefixtures("small_published")


def refusal(path: Path) -> str:
    """Return what loading a wrong file says, checked to be one line that names the base."""
    with pytest.raises(BwlabError) as error:
        load_base(path)
    assert "\n" not in str(error.value)
    assert error.value.asked == f"--base {path}"
    return error.value.found


@small_bases
@pytest.mark.parametrize(
    ("drop", "found"),
    [
        ("first_stage_model.", "a checkpoint of SDXL without autoencoder"),
        ("conditioner.embedders.1.", "a checkpoint of SDXL without text encoder"),
        ("model.diffusion_model.middle", "it lacks 66 of the 620 tensors of SDXL's unet: "),
        ("conditioner.embedders.0.transformer.text_model.final", "it lacks 2 of the 36 tensors of SDXL's text_encoder"),
        ("model.diffusion_model.input_blocks.0.0.w", "an autoencoder (VAE) alone"),
    ],
)
def test_what_is_missing_is_named(drop: str, found: str, small_files: Mapping[str, Path], tmp_path: Path) -> None:
    file = load_file(small_files["sdxl"])
    kept = {key: tensor for key, tensor in file.items() if not key.startswith(drop)}
    save_file(kept, tmp_path / "part.safetensors")
    assert refusal(tmp_path / "part.safetensors").startswith(found)


@small_bases
def test_another_shape_is_named(small_files: Mapping[str, Path], tmp_path: Path) -> None:
    file = load_file(small_files["sd1"])
    file["model.diffusion_model.out.2.weight"] = torch.zeros(4, 9, 3, 3)
    save_file(file, tmp_path / "other.safetensors")
    assert refusal(tmp_path / "other.safetensors") == (
        "1 of the 686 tensors of SD 1.x's unet have another shape: "
        "model.diffusion_model.out.2.weight (4, 9, 3, 3), not (4, 8, 3, 3)"
    )


@small_bases
@pytest.mark.parametrize("inputs", [*INPUTS, 6])
def test_unets_with_other_inputs_are_named(inputs: int, small_files: Mapping[str, Path], tmp_path: Path) -> None:
    file = load_file(small_files["sd1"])
    file["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(8, inputs, 3, 3)
    save_file(file, tmp_path / "other.safetensors")
    kind = INPUTS.get(inputs, "a UNet")
    assert refusal(tmp_path / "other.safetensors") == f"{kind} ({inputs} input channels, not 4)"


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",), "an adapter file, not a base"),
        (("unet.mid_block.attentions.0.proj_in.lora_A.weight",), "an adapter file, not a base"),
        (("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a",), "an adapter file, not a base"),
        (("decoder.conv_in.weight", "encoder.conv_in.weight"), "an autoencoder (VAE) alone"),
        (("first_stage_model.decoder.conv_in.weight",), "an autoencoder (VAE) alone"),
        (("input_blocks.0.0.weight", "out.2.weight"), "a UNet alone, without autoencoder"),
        (("conv_in.weight", "down_blocks.0.resnets.0.time_emb_proj.weight"), "a UNet alone, in diffusers' layout"),
        (("text_model.encoder.layers.0.self_attn.k_proj.weight",), "a text encoder alone"),
        (("control_model.input_hint_block.0.weight",), "a ControlNet"),
        (("emb_params",), "a textual-inversion embedding"),
        (("clip_g", "clip_l"), "a textual-inversion embedding"),
        (("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",), "a transformer of SD 3"),
        (("model.diffusion_model.double_blocks.0.img_attn.qkv.weight",), "a transformer of the Flux family"),
        (("b", "a"), "no checkpoint of Stable Diffusion (first of 2 keys: a)"),
        ((), "it holds no tensors"),
    ],
)
def test_other_files_are_named(keys: tuple[str, ...], found: str, tmp_path: Path) -> None:
    save_file({key: torch.zeros(2, 3) for key in keys}, tmp_path / "x.safetensors")
    assert refusal(tmp_path / "x.safetensors").startswith(found)


@pytest.mark.parametrize(
    ("width", "found"), [(1280, "SDXL's refiner"), (640, "a UNet whose text has width 640"), (None, "width None")]
)
def test_unknown_unets_are_named(width: int | None, found: str, tmp_path: Path) -> None:
    tensors = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}
    if width:
        key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
        tensors[key] = torch.zeros(8, width)
    save_file(tensors, tmp_path / "x.safetensors")
    assert found in refusal(tmp_path / "x.safetensors")


def test_broken_files_are_named(small_files: Mapping[str, Path], tmp_path: Path) -> None:
    data, file = small_files["sd1"].read_bytes(), tmp_path / "x.safetensors"
    for content, found in (
        (b"", "the file is empty"),
        (data[: len(data) // 2], "it is cut short or no safetensors file: incomplete metadata"),
        (data[:9], "it is cut short or no safetensors file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "it is cut short or no safetensors file"),
    ):
        file.write_bytes(content)
        assert refusal(file).startswith(found)


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    for name, new in (("old.ckpt", False), ("new.ckpt", True), ("renamed.safetensors", True)):
        torch.save({"x": 1}, tmp_path / name, _use_new_zipfile_serialization=new)
        assert refusal(tmp_path / name) == "a pickle, which can run any code when it is read"
