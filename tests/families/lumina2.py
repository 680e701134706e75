"""A small Lumina 2 of random weights."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

WIDTH = 16


def tiny_gemma() -> tuple[GemmaTokenizer, Gemma2Model]:
    """Return a tokenizer that spells, and an untrained language model of two layers."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *string.ascii_letters, *string.digits, *string.punctuation]
    tokenizer = GemmaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[])
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        initializer_range=0.5,
    )
    return tokenizer, Gemma2Model(config).eval()


def save_tiny_lumina2(folder: Path) -> Path:
    """Write a pipeline of 64 px images with a refiner each for image and text, and three layers; return its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, text_encoder = tiny_gemma()
        transformer = Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=24,
            num_layers=3,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(300, 64, 64),
            cap_feat_dim=WIDTH,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            norm_num_groups=2,
            layers_per_block=1,
            scaling_factor=0.4,
            shift_factor=0.1,
        )
        scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
        Lumina2Pipeline(transformer.eval(), scheduler, vae.eval(), text_encoder, tokenizer).save_pretrained(folder)
    return folder
