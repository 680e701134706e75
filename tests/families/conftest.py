"""A random Stable Diffusion 3 pipeline, a few channels wide."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection

from tests.conftest import (
    TINY_WIDTH,
    XL_POOLED_WIDTH,
    XL_SECOND_WIDTH,
    tiny_second_text_encoder,
    tiny_text_config,
    tiny_tokenizer,
)

BLOCKS = 4


def tiny_sd3(shift: float = 3.0) -> StableDiffusion3Pipeline:
    """Return a pipeline of 32 px images, 8 x 8 latents, four joint blocks and no T5."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = CLIPTextModelWithProjection(tiny_text_config(tokenizer, TINY_WIDTH, TINY_WIDTH, heads=4))
        second = tiny_second_text_encoder(tokenizer)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
            scaling_factor=1.5,
            shift_factor=0.1,
        )
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=BLOCKS,
            attention_head_dim=8,
            num_attention_heads=3,
            joint_attention_dim=TINY_WIDTH + XL_SECOND_WIDTH + 8,
            caption_projection_dim=24,
            pooled_projection_dim=TINY_WIDTH + XL_POOLED_WIDTH,
            pos_embed_max_size=6,
            qk_norm="rms_norm",
        )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Stable Diffusion 3 without a T5."""
    folder = tmp_path_factory.mktemp("sd3")
    tiny_sd3().save_pretrained(folder)
    return folder


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    """Return a folder of two captioned images."""
    from PIL import Image

    folder = tmp_path / "two"
    folder.mkdir()
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 40, 210))):
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"{name} square")
    return folder
