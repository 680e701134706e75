"""Random pipelines of the families of transformers, a few channels wide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import AddedToken
from transformers import (
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

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
LATE_BLOCKS = {"sd3": "joint3", "flux": "single2", "qwen-image": "block2", "z-image": "layer2"}
"""The last block of the tiny base of each family."""
QWEN_WIDTH = 16
QWEN_TEMPLATE = "{% for said in messages %}<|im_start|>{{ said.role }}\n{{ said.content }}<|im_end|>{% endfor %}"


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


def tiny_qwen_tokenizer() -> Qwen2Tokenizer:
    """Return a Qwen2Tokenizer of the words that diffusers' templates begin with, and of single bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {piece: index for index, piece in enumerate([*marks, *sorted(ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.chat_template = QWEN_TEMPLATE
    return tokenizer


def qwen_sizes(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    """Return the settings that tiny language models of the Qwen family share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": QWEN_WIDTH,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def tiny_qwen_image() -> QwenImagePipeline:
    """Return a pipeline of 32 px images and three blocks, with 4 latent channels, each with a mean and a deviation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = tiny_qwen_tokenizer()
        text = qwen_sizes(tokenizer) | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
        seeing = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": QWEN_WIDTH}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=seeing)
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=3,
            joint_attention_dim=QWEN_WIDTH,
            axes_dims_rope=(2, 2, 4),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[0.5, 1.5, 2.0, 1.0],
        )
        return QwenImagePipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=0.9, shift_terminal=0.02),
            vae=vae,
            text_encoder=Qwen2_5_VLForConditionalGeneration(config),
            tokenizer=tokenizer,
        )


def tiny_z_image() -> ZImagePipeline:
    """Return a pipeline of 32 px images, a refiner each for image and text, and three layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = tiny_qwen_tokenizer()
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=24,
            n_layers=3,
            n_refiner_layers=1,
            n_heads=3,
            n_kv_heads=3,
            cap_feat_dim=QWEN_WIDTH,
            axes_dims=[2, 2, 4],
            axes_lens=[600, 16, 16],
        )
        return ZImagePipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=shifted_autoencoder(),
            text_encoder=Qwen3Model(Qwen3Config(**qwen_sizes(tokenizer), head_dim=8)),
            tokenizer=tokenizer,
        )
