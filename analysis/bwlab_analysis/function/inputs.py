"""Fixed noisy latents to look at a base with: from a user's pictures, or from the base's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter, Attached, attach
from bwlab.components import in_text_encoder
from bwlab.conditioning import encode_texts, text_encoders, unet_arguments
from bwlab.errors import BwlabError
from bwlab.merging.outcome import counted
from bwlab_analysis.function.variants import Variants

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline

TIMESTEPS = (801, 601, 401, 201)
LATENTS = 16


@dataclass(frozen=True, eq=False)
class Inputs:
    """Latents, the noise that is added to them, and captions.

    Attributes:
        latents: ``(latents, channels, h, w)`` clean, scaled as the UNet expects them.
        noise: the same shape.
        captions: one for each.
        source: where they come from, in words.
        distinct: so many different latents come first, and then again with other noise.
    """

    latents: Tensor
    noise: Tensor
    captions: tuple[str, ...]
    source: str
    distinct: int

    def __len__(self) -> int:
        return len(self.latents)

    def pieces(self, size: int) -> Iterator[Inputs]:
        """Yield the inputs in pieces of at most ``size`` latents."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield replace(self, latents=self.latents[rows], noise=self.noise[rows], captions=self.captions[rows])


@dataclass(frozen=True, eq=False)
class Pictures:
    """A folder of captioned pictures.

    Attributes:
        folder: where they are.
        latents: ``(pictures, channels, h, w)``, scaled as the UNet expects them.
        captions: one for each.
    """

    folder: Path
    latents: Tensor
    captions: tuple[str, ...]

    def inputs(self, count: int, seed: int) -> Inputs:
        """Return ``count`` inputs: of the first pictures, or of all, each used equally often."""
        used = min(count, len(self.latents))
        repeats = -(-count // used)
        latents = self.latents[:used].repeat(repeats, 1, 1, 1)[:count]
        captions = (self.captions[:used] * repeats)[:count]
        return _noisy(latents, captions, seed, f"{counted(used, 'picture')} in {self.folder}", used)


def encoded_pictures(pipe: Pipeline, folder: Path, most: int, option: str = "--data") -> Pictures:
    """Return the first pictures of a folder as latents.

    Args:
        pipe: the base, whose autoencoder is used.
        folder: as data sets are: pictures with captions.
        most: no more pictures than these are read.
        option: what the user gave the folder to, for messages.

    Raises:
        BwlabError: no such folder, no picture in it, a broken picture or a missing caption.
    """
    from bwlab.training.data.examples import Subset
    from bwlab.training.data.folders import MissingCaption, pictures_of, read_example
    from bwlab.training.data.pictures import UnreadablePicture, read_picture
    from bwlab.training.data_config import DataConfig

    subset = Subset(DataConfig(folder=str(folder)), f"{option} {folder}")
    side = int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)
    try:
        examples = [read_example(path, subset) for path in pictures_of(subset)[:most]]
        pictures = torch.stack([read_picture(example.path, side) for example in examples])
    # The settings of a training that their advice names are not to be had here.
    except MissingCaption as error:
        raise BwlabError(error.asked, error.found, "Write it") from error
    except UnreadablePicture as error:
        raise BwlabError(error.asked, error.found, "Repair it or take it away") from error
    return Pictures(folder, encoded(pipe, pictures), tuple(example.caption for example in examples))


def painted_inputs(pipe: Pipeline, prompts: Sequence[str], count: int, seed: int, steps: int = 15) -> Inputs:
    """Return inputs that the base paints itself, without adapters: each prompt equally often, in its order.

    Raises:
        BwlabError: no prompt.
    """
    from bwlab.generation.sample import generate

    if not prompts:
        raise BwlabError("painting latents to look at", "no prompt", "Give one")
    captions = tuple(prompts[index % len(prompts)] for index in range(count))
    images = generate(pipe, captions, range(seed, seed + count), steps=steps, cfg=3.0)
    import numpy as np

    pictures = torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in images]) / 127.5 - 1)
    latents = encoded(pipe, pictures.movedim(-1, 1))
    return _noisy(
        latents,
        captions,
        seed,
        f"{counted(count, 'picture')} that the base paints for {counted(len(prompts), 'prompt')}",
        count,
    )


@torch.no_grad()
def encoded(pipe: Pipeline, pictures: Tensor) -> Tensor:
    """Return the latents ``(n, channels, h, w)`` of pictures ``(n, 3, H, W)`` in -1..1, as the UNet expects them."""
    config = pipe.vae.config
    means = [pipe.vae.encode(chunk).latent_dist.mean for chunk in pictures.to(pipe.vae.device).split(8)]
    latents: Tensor = (torch.cat(means) - (config.get("shift_factor") or 0.0)) * config.scaling_factor
    return latents


def _noisy(latents: Tensor, captions: Sequence[str], seed: int, source: str, distinct: int) -> Inputs:
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    return Inputs(latents, noise.to(latents.device), tuple(captions), source, distinct)


@torch.no_grad()
def conditions(pipe: Pipeline, captions: Sequence[str], uses: Sequence[Attached] = ()) -> Mapping[str, Any]:
    """Return the UNet's keyword arguments for captions, read by text encoders with adapters."""
    texts = [Attached(use.adapter.only(in_text_encoder), use.scale) for use in uses]
    with attach(pipe.unet, *(use for use in texts if use.adapter.layers), text_encoder=text_encoders(pipe)):
        return unet_arguments(pipe, encode_texts(pipe, captions))


def variant_texts(
    pipe: Pipeline, pair: Sequence[Adapter], variants: Variants, captions: Sequence[str]
) -> tuple[list[Mapping[str, Any]], list[int]]:
    """Return the texts that variants read, and which of them each reads: by which of the pair are on in it."""
    uses = [Attached(adapter) for adapter in pair]
    matters = [adapts_text(use) for use in uses]
    on = [tuple(bool(gate[place]) and matters[place] for place in range(len(pair))) for gate in variants.gates]
    kinds = list(dict.fromkeys(on))
    texts = [
        conditions(pipe, captions, [use for use, there in zip(uses, kind, strict=True) if there]) for kind in kinds
    ]
    return texts, [kinds.index(kind) for kind in on]


def adapts_text(use: Attached) -> bool:
    """Whether an adapter has layers in a text encoder."""
    return any(map(in_text_encoder, use.adapter.layers))
