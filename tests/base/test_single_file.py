"""Single-file checkpoints: detected, and loaded bit for bit."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

from bwlab.base.architectures import PUBLISHED
from bwlab.base.conditioning import denoiser_conditions, encode_texts
from bwlab.base.header import family_of, read_single_file_header
from bwlab.base.load import base_scheme, load_base, module_hash, weights_hash
from bwlab.base.models import text_encoders
from bwlab.base.prediction import EPSILON, VELOCITY, Prediction
from bwlab.base.single_file import checkpoint_metadata, checkpoint_tensors, pipeline_family
from bwlab.errors import BwlabError
from bwlab.plugins.manager import build_manager
from tests.base.checkpoints import published_file, random_pipeline, small, write_checkpoint

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

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
            pipe.unet(latents, 500, **denoiser_conditions(pipe, encode_texts(pipe, ["a cat", "an owl"]))).sample
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
    assert base_scheme(pipe, build_manager().block_schemes()).name == scheme
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
        assert weights_hash(pipe) == weights_hash(load_base(base)) != module_hash(pipe.unet)


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
    checkpoint = read_single_file_header(published_file(tmp_path / "x.safetensors", family), "base")
    assert family_of(checkpoint, "base") == family


def test_families_of_pipelines(tiny_pipeline: Path) -> None:
    pipe = random_pipeline(small("sd2"), Prediction(VELOCITY))
    assert checkpoint_metadata(pipe, "sd2")["modelspec.architecture"] == "stable-diffusion-v2-768-v"
    pipe.unet.register_to_config(cross_attention_dim=1024)
    assert pipeline_family(pipe) == "sd2"
    with pytest.raises(BwlabError, match="text has width 32"):
        pipeline_family(load_base(tiny_pipeline))


@pytest.mark.slow
@pytest.mark.large
@torch.no_grad()
def test_a_checkpoint_of_full_size(tmp_path: Path) -> None:
    """In half precision on disk and in memory, where one pipeline is at a time: the tests shall pass in 4 GB.

    It is Stable Diffusion 2, whose text encoder has other keys too. The metadata name the prediction, as finding it out
    takes a pass of the UNet; small files of every family test that, and that the same weights and configs give the same
    outputs.
    """
    pipe = random_pipeline(PUBLISHED["sd2"], Prediction(VELOCITY), dtype=torch.bfloat16)
    assert sum(tensor.numel() for tensor in pipe.unet.parameters()) == 865910724
    file = write_checkpoint(tmp_path / "x.safetensors", pipe, "sd2", metadata=checkpoint_metadata(pipe, "sd2"))
    written = _checksums(pipe), _configs(pipe)
    del pipe
    gc.collect()
    loaded = load_base(file, torch.bfloat16)
    assert (_checksums(loaded), _configs(loaded)) == written


def _checksums(pipe: Pipeline) -> dict[str, int]:
    """Return a checksum of each weight, in a tenth of the time of a hash."""
    return {
        f"{part}.{name}": zlib.crc32(tensor.contiguous().view(torch.uint8).numpy())
        for part in ("unet", "vae", "text_encoder")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }


def _configs(pipe: Pipeline) -> dict[str, dict[str, object]]:
    """Return the config of each model, and of the noise schedule, without where it was read."""
    parts = {name: getattr(pipe, name).config for name in ("unet", "vae", "text_encoder", "scheduler")}
    configs = {name: part if isinstance(part, dict) else part.to_dict() for name, part in parts.items()}
    return {
        name: {key: value for key, value in config.items() if key != "_name_or_path"}
        for name, config in configs.items()
    }
