"""Random pipelines of Stable Diffusion 3 and FLUX.1, a few channels wide."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5TokenizerFast

from tests.conftest import (
    TINY_WIDTH,
    XL_POOLED_WIDTH,
    XL_SECOND_WIDTH,
    tiny_autoencoder,
    tiny_second_text_encoder,
    tiny_text_config,
    tiny_text_encoder,
    tiny_tokenizer,
)

BLOCKS = 4


def shifted_autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder whose latents are scaled and shifted."""
    return tiny_autoencoder(scaling_factor=1.5, shift_factor=0.1)


def tiny_t5() -> tuple[T5TokenizerFast, T5EncoderModel]:
    """Return a tokenizer of a few words and letters, and an untrained T5 encoder of width 16."""
    words = [(f"▁{word}", -2.0) for word in ("a", "red", "blue", "square")]
    letters = [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,"]
    tokenizer = T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words, *letters], extra_ids=0)
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=4)
    return tokenizer, T5EncoderModel(config)


def tiny_flux(*, guidance: bool) -> FluxPipeline:
    """Return a pipeline of 32 px images, two double and three single blocks.

    Args:
        guidance: whether the transformer is told a guidance scale, as that of FLUX.1 dev.

    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        second_tokenizer, second = tiny_t5()
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=8,
            num_attention_heads=3,
            joint_attention_dim=16,
            pooled_projection_dim=TINY_WIDTH,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=guidance,
        )
        return FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance),
            vae=shifted_autoencoder(),
            text_encoder=tiny_text_encoder(tokenizer),
            tokenizer=tokenizer,
            text_encoder_2=second,
            tokenizer_2=second_tokenizer,
        )


def tiny_sd3(shift: float = 3.0) -> StableDiffusion3Pipeline:
    """Return a pipeline of 32 px images, 8 x 8 latents, four joint blocks and no T5."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = CLIPTextModelWithProjection(tiny_text_config(tokenizer, TINY_WIDTH, TINY_WIDTH, heads=4))
        second = tiny_second_text_encoder(tokenizer)
        vae = shifted_autoencoder()
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


def save_tiny_sd3(folder: Path) -> Path:
    """Write the tiny Stable Diffusion 3 and return its folder."""
    tiny_sd3().save_pretrained(folder)
    return folder
