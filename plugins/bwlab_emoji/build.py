"""Builds the embedded base: art -> autoencoder -> text encoder -> UNet -> a diffusers pipeline folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from bwlab_emoji.art import Art, load_art
from bwlab_emoji.icon_sets import ICON_SETS, Pixels, on_background, styles_with_role
from bwlab_emoji.text import new_text_encoder, new_tokenizer
from bwlab_emoji.training import StageLog, let_all_read
from bwlab_emoji.unet import DenoiserTraining, LatentPool, new_scheduler, new_unet
from bwlab_emoji.vae import AutoencoderTraining
from bwlab_emoji.world import BACKGROUNDS, HELD_OUT, caption, training_names

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPTextModel, CLIPTokenizer

STAGES = ("vae", "text", "unet")


@dataclass(frozen=True)
class BuildConfig:
    """Settings of a build of the base.

    Attributes:
        out: the pipeline folder to write.
        work: the folder of downloads, caches and checkpoints; keep it to continue a build.
        seed: seed for every random choice.
        vae_steps: optimiser steps of the autoencoder.
        unet_steps: optimiser steps of UNet and text encoder.
        coloured_from: step of the UNet's training from which coloured backgrounds are mixed in.
        compile_unet: use `torch.compile` for the UNet.

    """

    out: Path
    work: Path
    seed: int = 0
    vae_steps: int = 6_500
    unet_steps: int = 6_500
    coloured_from: int = 4_000
    compile_unet: bool = False


def build(config: BuildConfig, console: Console, stages: Sequence[str] = STAGES) -> Path:
    """Run the stages, each from its last checkpoint, and write the pipeline folder; return it.

    A stage whose result is in `config.work` is not run again. Remove that folder to change its settings.
    """
    config.work.mkdir(parents=True, exist_ok=True)
    art = load_art(config.work)
    if "vae" in stages and not (config.work / "vae" / "diffusion_pytorch_model.safetensors").is_file():
        build_autoencoder(config, art, console)
    if "text" in stages and not (config.work / "text_encoder" / "model.safetensors").is_file():
        build_text(config, art)
    if "unet" in stages:
        training, vae, tokenizer = load_denoiser_training(config, art)
        with StageLog("unet", config.work / "log.jsonl", console) as log:
            training.run(log)
        save_pipeline(assemble(vae, tokenizer, training.text_encoder, training), config.out)
    return config.out


def build_autoencoder(config: BuildConfig, art: Art, console: Console) -> AutoencoderKL:
    """Train the autoencoder on every shippable drawing but those of the held-out identities."""
    styles = styles_with_role("train", "held-out")
    seen = [name for name in art.names if name not in HELD_OUT]
    training = AutoencoderTraining(
        _channels_first(art.of(seen, styles)),
        _channels_first(art.of(HELD_OUT, styles)),
        config.work,
        config.vae_steps,
        seed=config.seed,
    )
    with StageLog("vae", config.work / "log.jsonl", console) as log:
        vae = training.run(log)
    vae.to(memory_format=torch.contiguous_format).save_pretrained(config.work / "vae")
    return vae


def _channels_first(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[2:]).transpose(0, 3, 1, 2)))


def build_text(config: BuildConfig, art: Art) -> None:
    """Write the tokenizer and the initial text encoder."""
    words = {word for name in art.names for word in name.split("-")}
    words |= {"background", *BACKGROUNDS, *(icons.style for icons in ICON_SETS)}
    tokenizer = new_tokenizer(words)
    tokenizer.save_pretrained(config.work / "tokenizer")
    new_text_encoder(tokenizer, config.seed).save_pretrained(config.work / "text_encoder")


def load_denoiser_training(config: BuildConfig, art: Art) -> tuple[DenoiserTraining, AutoencoderKL, CLIPTokenizer]:
    """Return the UNet training at its last checkpoint, with the autoencoder and the tokenizer that it uses."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

    vae = AutoencoderKL.from_pretrained(config.work / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(config.work / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(config.work / "text_encoder")
    training = DenoiserTraining(
        latent_pool(vae, tokenizer, art),
        text_encoder,
        config.work,
        config.unet_steps,
        coloured_from=config.coloured_from,
        seed=config.seed,
        compile_unet=config.compile_unet,
    )
    return training, vae, tokenizer


@torch.no_grad()
def latent_pool(vae: AutoencoderKL, tokenizer: CLIPTokenizer, art: Art) -> LatentPool:
    """Return latents and captions of the training world: each image over white, then over each other colour."""
    styles = styles_with_role("train")
    names = training_names(art.names)
    drawings = art.of(names, styles).reshape(-1, 64, 64, 4)
    colours = ["white", *(colour for colour in BACKGROUNDS if colour != "white")]
    latents, captions = [], []
    for colour in colours:
        images = torch.from_numpy(on_background(drawings, BACKGROUNDS[colour])).permute(0, 3, 1, 2)
        scaled = [chunk.float() / 127.5 - 1 for chunk in images.split(64)]
        latents.append(torch.cat([vae.encode(chunk).latent_dist.mean for chunk in scaled]))
        captions.append([caption(style, name, colour) for name in names for style in styles])
    tokens = [tokenizer(texts, padding="max_length", return_tensors="pt").input_ids for texts in captions]
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    return LatentPool(torch.stack(latents, 1), torch.stack(tokens, 1), empty)


def assemble(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, training: DenoiserTraining
) -> StableDiffusionPipeline:
    """Return the pipeline with averaged weights."""
    from diffusers import StableDiffusionPipeline

    unet = new_unet()
    weights = training.averaged()
    unet.load_state_dict(weights["unet"])
    text_encoder.load_state_dict(weights["text_encoder"])
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_pipeline(pipeline: StableDiffusionPipeline, out: Path) -> None:
    """Write the pipeline in half precision as an ordinary diffusers folder."""
    import copy

    halved = copy.deepcopy(pipeline).to(torch.float16)
    halved.vae.register_to_config(_name_or_path="")  # otherwise the work folder's path would be written into the config
    halved.save_pretrained(out)
    let_all_read(out)


def sample_training_captions(art: Art, count: int = 64, seed: int = 0) -> list[tuple[str, str]]:
    """Return `count` distinct training (identity, style) pairs."""
    pairs = [(name, style) for name in training_names(art.names) for style in styles_with_role("train")]
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:count]
    return [pairs[int(index)] for index in chosen]


def generate(pipeline: StableDiffusionPipeline, prompts: Sequence[str], cfg: float, seed: int = 0) -> Pixels:
    """Return an image for each prompt, 25 steps of DPM++ 2M Karras, as `(n, 64, 64, 3)` uint8."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(prompts))]
    images = pipeline(
        list(prompts), num_inference_steps=25, guidance_scale=cfg, generator=generators, output_type="np"
    ).images
    pixels: Pixels = np.rint(images * 255).astype(np.uint8)
    return pixels
