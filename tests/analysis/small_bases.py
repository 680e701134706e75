"""Bases with every module of SD 1.x, SD 2.x and SDXL, a few channels wide, and adapter files of every algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn

from bwlab.blocks.configs import KNOWN, layer_shapes
from bwlab.formats.keys import kohya_name_of
from tests.analysis.kohya import write
from tests.conftest import (
    TINY_WIDTH,
    XL_POOLED_WIDTH,
    XL_SECOND_WIDTH,
    tiny_autoencoder,
    tiny_second_text_encoder,
    tiny_text_encoder,
    tiny_tokenizer,
)

SCHEMES = ("sd14", "sd21", "sdxl")
ALGORITHMS = ("lora", "locon", "loha", "lokr", "oft", "ortho")

# No two levels are equally wide, so that a block taken for another cannot pass.
_NARROW: Mapping[str, Mapping[str, object]] = {
    "sd14": {"block_out_channels": (8, 12, 16, 20), "attention_head_dim": 2, "cross_attention_dim": TINY_WIDTH},
    "sd21": {
        "block_out_channels": (8, 12, 16, 20),
        "attention_head_dim": (1, 2, 4, 4),
        "cross_attention_dim": TINY_WIDTH,
    },
    "sdxl": {
        "block_out_channels": (8, 12, 16),
        "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": TINY_WIDTH + XL_SECOND_WIDTH,
        "addition_time_embed_dim": 6,
        "projection_class_embeddings_input_dim": XL_POOLED_WIDTH + 6 * 6,
    },
}


def small_unet(scheme: str) -> UNet2DConditionModel:
    """Return an untrained UNet with the very modules of `"sd14"`, `"sd21"` or `"sdxl"`, for 8 x 8 latents."""
    config = {**KNOWN[scheme], **_NARROW[scheme], "sample_size": 8, "norm_num_groups": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(**{key: value for key, value in config.items() if not key.startswith("_")})


def save_small_base(scheme: str, folder: Path) -> Path:
    """Save a pipeline around `small_unet` and return its folder."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts: dict[str, Any] = {"vae": tiny_autoencoder(), "text_encoder": tiny_text_encoder(tokenizer)}
        if scheme == "sdxl":
            parts |= {"text_encoder_2": tiny_second_text_encoder(tokenizer), "tokenizer_2": tokenizer}
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        prediction_type="v_prediction" if scheme == "sd21" else "epsilon",
    )
    parts |= {"unet": small_unet(scheme), "tokenizer": tokenizer, "scheduler": scheduler}
    if scheme == "sdxl":
        pipe = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.save_pretrained(folder)
    return folder


def adapter_file(
    path: Path,
    denoiser: nn.Module,
    algorithm: str,
    blocks: Iterable[str],
    seed: int,
    size: float = 0.3,
    alpha: float | None = None,
) -> Path:
    """Write an adapter of random numbers and return its path.

    Args:
        path: of the file.
        denoiser: a UNet or a transformer, whose layers it changes.
        algorithm: of `ALGORITHMS`; all but `"lora"` and `"ortho"` change convolutions too.
        blocks: beginnings of module paths: `["up_blocks.1."]`, `["transformer_blocks.1."]`.
        seed: of the numbers.
        size: standard deviation of the numbers.
        alpha: None: the file has none; of `"oft"` it has 0 in any case.

    """
    draw = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    unet = isinstance(denoiser, UNet2DConditionModel)
    for name, (kind, shape) in layer_shapes(denoiser).items():
        if name.startswith(tuple(blocks)) and (kind == "linear" or algorithm not in ("lora", "ortho")):
            leaves = _leaves(algorithm, shape, draw, size)
            if alpha is not None and algorithm != "oft":
                leaves["alpha"] = np.array(alpha)
            key = kohya_name_of(name) if unet else f"lycoris_{name.replace('.', '_')}"
            tensors |= {f"{key}.{leaf}": np.array(values, np.float32, order="C") for leaf, values in leaves.items()}
    return write(path, tensors)


def _leaves(
    algorithm: str, shape: tuple[int, ...], draw: np.random.Generator, size: float, rank: int = 3
) -> dict[str, np.ndarray]:
    out, inner, *kernel = shape
    columns, ones = inner * int(np.prod(kernel)), (1,) * len(kernel)

    def numbers(*dims: int) -> np.ndarray:
        return size * draw.standard_normal(dims)

    if algorithm in ("lora", "locon"):
        return {"lora_down.weight": numbers(rank, inner, *kernel), "lora_up.weight": numbers(out, rank, *ones)}
    if algorithm == "ortho":
        down, up = (np.linalg.qr(numbers(side, min(rank, side)))[0] for side in (columns, out))
        scale = size * np.sqrt(out)
        return {
            "lora_down.weight": down.T.reshape(-1, inner, *kernel),
            "lora_up.weight": scale * up[:, : down.shape[1]],
        }
    if algorithm == "loha":
        left, right = (
            {f"hada_w{n}_{side}": numbers(*dims) for n in (1, 2)}
            for side, dims in (("a", (out, rank)), ("b", (rank, columns)))
        )
        return {**left, **right}
    if algorithm == "lokr":
        return {"lokr_w1": numbers(2, 2), "lokr_w2": numbers(out // 2, inner // 2, *kernel)}
    return {"oft_blocks": numbers(2, out // 2, out // 2), "alpha": np.zeros(())}
