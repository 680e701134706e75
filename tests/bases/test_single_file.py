"""Single-file checkpoints: detected, loaded bit for bit, and every wrong file with its one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from bwlab.bases.architectures import PUBLISHED
from bwlab.bases.export import checkpoint_metadata, checkpoint_tensors, pipeline_family
from bwlab.bases.prediction import EPSILON, VELOCITY, Prediction
from bwlab.conditioning import encode_texts, text_encoders, unet_arguments
from bwlab.errors import BwlabError
from bwlab.formats.checkpoint import INPUTS, family_of, open_checkpoint
from bwlab.pipelines import base_scheme, load_base, module_hash, weights_hash
from bwlab.plugins import build_manager
from tests.bases.checkpoints import published_file, random_pipeline, small, write_checkpoint

FAMILY_NAMES = tuple(PUBLISHED)
small_bases = pytest.mark.usefixtures("small_published")


@small_bases
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_weights_and_outputs_are_those_that_were_written(family: str, small_files: Mapping[str, Path]) -> None:
    original, loaded = random_pipeline(small(family)), load_base(small_files[family])
    two = family == "sdxl"
    assert isinstance(loaded, StableDiffusionXLPipeline if two else StableDiffusionPipeline)
    for name in PUBLISHED[family].components():
        assert module_hash(getattr(loaded, name)) == module_hash(getattr(original, name)), name
        assert not getattr(loaded, name).training
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    with torch.no_grad():
        outputs = [
            pipe.unet(latents, 500, **unet_arguments(pipe, encode_texts(pipe, ["a cat", "an owl"]))).sample
            for pipe in (original, loaded)
        ]
        assert torch.equal(*outputs)
        assert torch.equal(original.vae.decode(latents).sample, loaded.vae.decode(latents).sample)


# diffusers takes the width of SDXL's second projection for that of its text, which is so in the published files alone;
# tests/formats/test_ldm_keys.py compares its parts.
@small_bases
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_diffusers_reads_the_same_weights_from_the_file(
    family: str, small_files: Mapping[str, Path], tmp_path: Path
) -> None:
    loaded = load_base(small_files[family])
    loaded.save_pretrained(tmp_path)
    theirs = StableDiffusionPipeline.from_single_file(
        str(small_files[family]), config=str(tmp_path), local_files_only=True, torch_dtype=torch.float32
    )
    for name in PUBLISHED[family].components():
        assert module_hash(getattr(theirs, name)) == module_hash(getattr(loaded, name)), name


@small_bases
@pytest.mark.parametrize(("family", "scheme"), [("sd1", "sd"), ("sd2", "sd"), ("sdxl", "sdxl")])
def test_blocks_are_found(family: str, scheme: str, small_files: Mapping[str, Path]) -> None:
    pipe = load_base(small_files[family])
    assert base_scheme(pipe, build_manager()).name == scheme
    assert len(text_encoders(pipe)) == (2 if family == "sdxl" else 1)


@small_bases
def test_half_precision_files_are_float32_in_memory(tmp_path: Path) -> None:
    original = random_pipeline(small("sd1"))
    file = write_checkpoint(tmp_path / "half.safetensors", original, "sd1", dtype=torch.bfloat16)
    pipe = load_base(file)
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    assert {tensor.dtype for part in parts for tensor in part.parameters()} == {torch.float32}
    assert weights_hash(pipe) == module_hash(original.unet.to(torch.bfloat16))


@small_bases
def test_weights_may_be_loaded_in_half(small_files: Mapping[str, Path], tiny_xl_pipeline: Path) -> None:
    for base in (small_files["sd1"], small_files["sdxl"], tiny_xl_pipeline):
        pipe = load_base(base, torch.float16)
        parts = (pipe.unet, pipe.vae, *text_encoders(pipe))
        assert {tensor.dtype for part in parts for tensor in part.parameters()} == {torch.float16}


@small_bases
def test_the_file_may_go_once_it_is_loaded(tmp_path: Path) -> None:
    original = random_pipeline(small("sd1"))
    file = write_checkpoint(tmp_path / "base.safetensors", original, "sd1")
    pipe = load_base(file)
    file.write_bytes(b"\0" * file.stat().st_size)
    assert weights_hash(pipe) == weights_hash(original)


@small_bases
def test_other_tools_spellings_are_read(tmp_path: Path) -> None:
    original = random_pipeline(small("sd1"))
    tensors = checkpoint_tensors(original, "sd1")
    level = "cond_stage_model.transformer.text_model."
    old = {key.replace(level, level.removesuffix("text_model.")): tensor for key, tensor in tensors.items()}
    matrix = "first_stage_model.decoder.mid.attn_1.q.weight"
    old[matrix] = old[matrix][:, :, 0, 0].contiguous()
    save_file(old, tmp_path / "old.safetensors")
    loaded = load_base(tmp_path / "old.safetensors")
    for name in PUBLISHED["sd1"].components():
        assert module_hash(getattr(loaded, name)) == module_hash(getattr(original, name)), name


@small_bases
def test_sdxl_s_marks_of_v_prediction_are_written_and_read(tmp_path: Path) -> None:
    made = random_pipeline(small("sdxl"), Prediction(VELOCITY, zero_snr=True))
    loaded = load_base(write_checkpoint(tmp_path / "v.safetensors", made, "sdxl"))
    config = loaded.scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr) == (VELOCITY, True)
    assert float(loaded.scheduler.alphas_cumprod[-1]) == 0


@small_bases
@pytest.mark.parametrize(("kind", "side"), [("epsilon", 64), ("v", 8)])
def test_sd2_s_size_goes_with_its_prediction(kind: str, side: int, tmp_path: Path) -> None:
    metadata = {"modelspec.prediction_type": kind}
    file = write_checkpoint(tmp_path / "x.safetensors", random_pipeline(small("sd2")), "sd2", metadata=metadata)
    pipe = load_base(file)
    assert pipe.scheduler.config.prediction_type == {"epsilon": EPSILON, "v": VELOCITY}[kind]
    assert pipe.unet.config.sample_size == side


@small_bases
def test_an_undeclared_sd2_is_measured_and_others_predict_noise(tmp_path: Path) -> None:
    kinds = {}
    for family in FAMILY_NAMES:
        file = write_checkpoint(tmp_path / f"{family}.safetensors", random_pipeline(small(family)), family)
        kinds[family] = load_base(file).scheduler.config.prediction_type
    # Random weights return nothing like the noise that they are given.
    assert kinds == {"sd1": EPSILON, "sd2": VELOCITY, "sdxl": EPSILON}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_published_shapes_are_told_apart_by_the_header(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(published_file(tmp_path / "x.safetensors", family), "base")
    assert family_of(checkpoint, "base") == family


def test_families_of_pipelines(tiny_pipeline: Path) -> None:
    pipe = random_pipeline(small("sd2"), Prediction(VELOCITY))
    assert checkpoint_metadata(pipe, "sd2")["modelspec.architecture"] == "stable-diffusion-v2-768-v"
    pipe.unet.register_to_config(cross_attention_dim=1024)
    assert pipeline_family(pipe) == "sd2"
    with pytest.raises(BwlabError, match="text has width 32"):
        pipeline_family(load_base(tiny_pipeline))


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


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2"])
@torch.no_grad()
def test_a_checkpoint_of_full_size(family: str, tmp_path: Path) -> None:
    original = random_pipeline(PUBLISHED[family])
    assert sum(tensor.numel() for tensor in original.unet.parameters()) == {"sd1": 859520964, "sd2": 865910724}[family]
    file = write_checkpoint(tmp_path / "x.safetensors", original, family, dtype=torch.float16)
    original.to(torch.float16).to(torch.float32)
    loaded = load_base(file)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    outputs = [
        pipe.unet(latents, 500, **unet_arguments(pipe, encode_texts(pipe, ["a photo of a cat"]))).sample
        for pipe in (original, loaded)
    ]
    assert torch.equal(*outputs)
    assert weights_hash(loaded) == weights_hash(original)
