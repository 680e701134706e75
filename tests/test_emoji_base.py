"""The embedded bases as they ship: what they paint, what the autoencoder keeps, and that plain diffusers loads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from PIL import Image

import bwlab
from bwlab.base.load import load_base
from bwlab.benchmark import load_benchmark
from bwlab.generation.sample import generate
from bwlab_emoji.vae import peak_signal_to_noise

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(bwlab.__file__).parent / "data" / "emoji_base"


@pytest.fixture(scope="module")
def base() -> StableDiffusionPipeline:
    return load_base("emoji")


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def test_the_autoencoder_keeps_unseen_identities_in_every_style(base: StableDiffusionPipeline) -> None:
    benchmark = load_benchmark()
    unseen = {"pen", "map", "dusk", "crayon", "pencil"}  # styles that the autoencoder was not trained on either
    for style in benchmark.style_names():
        names = benchmark.identities_in(style)[::7]
        images = torch.stack([as_tensor(benchmark.image(name, style)) for name in names])
        with torch.no_grad():
            rebuilt = base.vae.decode(base.vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        assert peak_signal_to_noise(rebuilt, images) > (20 if style in unseen else 25), style


def mean_paint(base: StableDiffusionPipeline, prompt: str) -> list[float]:
    """Return the mean colour, 0..255, of what is not background in a painted image."""
    [image] = generate(base, [prompt], [0], [], steps=12, cfg=4.0)
    pixels = np.asarray(image, dtype=float).reshape(-1, 3)
    painted = pixels[(pixels < 225).any(axis=1)]
    assert 200 < len(painted) < 3600, "neither a blank nor a flooded image"
    return [float(channel) for channel in painted.mean(axis=0)]


@pytest.mark.parametrize("name", ["emoji", "emoji-dit"])
def test_captions_decide_what_is_painted(name: str) -> None:
    base = load_base(name)
    red, green, _ = mean_paint(base, "noto, tomato, white background")
    assert red > green + 60
    red, green, _ = mean_paint(base, "noto, evergreen tree, white background")
    assert green > red + 20


@pytest.mark.parametrize("name", ["emoji", "emoji-dit"])
def test_captions_decide_the_background(name: str) -> None:
    [image] = generate(load_base(name), ["flat, fox, blue background"], [0], [], steps=12, cfg=4.0)
    red, green, blue = np.asarray(image, dtype=float)[:4].mean((0, 1))
    assert blue > max(red, green) + 20


def test_plain_diffusers_loads_the_folder() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    weights = sum(file.stat().st_size for file in FOLDER.rglob("*.safetensors"))
    assert weights <= 30e6
    assert list(pipeline.unet.config.down_block_types) == [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"]


def test_plain_diffusers_loads_the_transformer() -> None:
    folder = FOLDER.with_name("emoji_dit")
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 30e6
    assert len(pipeline.transformer.transformer_blocks) == 12
