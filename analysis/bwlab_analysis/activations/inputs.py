"""Fixed noisy latents to look at a base with: from a user's pictures, or from the base's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.conditioning import encode_texts, text_encoders, unet_arguments
from bwlab.base.latents import encode_images
from bwlab.blocks.paths import in_text_encoder
from bwlab.dataset.folders import not_a_folder
from bwlab.errors import BwlabError
from bwlab.terminal import counted
from bwlab_analysis.activations.variants import Variants

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


TIMESTEPS = (801, 601, 401, 201)
LATENTS = 16


@dataclass(frozen=True, eq=False)
class Inputs:
    """Latents, the noise that is added to them, and captions.

    Attributes:
        latents: `(latents, channels, h, w)` clean, scaled as the UNet expects them.
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
        """Yield the inputs in pieces of at most `size` latents."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield replace(self, latents=self.latents[rows], noise=self.noise[rows], captions=self.captions[rows])


@dataclass(frozen=True, eq=False)
class Pictures:
    """A folder of captioned pictures.

    Attributes:
        folder: where they are.
        latents: `(pictures, channels, h, w)`, scaled as the UNet expects them.
        captions: one for each.

    """

    folder: Path
    latents: Tensor
    captions: tuple[str, ...]

    def inputs(self, count: int, seed: int) -> Inputs:
        """Return `count` inputs: of the first pictures, or of all, each used equally often."""
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
    from bwlab.dataset.config import DataConfig
    from bwlab.dataset.examples import Subset
    from bwlab.dataset.folders import MissingCaption, pictures_of, read_example
    from bwlab.images import UnreadablePicture, read_picture

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
    return Pictures(folder, encode_images(pipe.vae, pictures).mean, tuple(example.caption for example in examples))


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
    latents = encode_images(pipe.vae, pictures.movedim(-1, 1)).mean
    return _noisy(
        latents,
        captions,
        seed,
        f"{counted(count, 'picture')} that the base paints for {counted(len(prompts), 'prompt')}",
        count,
    )


def _noisy(latents: Tensor, captions: Sequence[str], seed: int, source: str, distinct: int) -> Inputs:
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    return Inputs(latents, noise.to(latents.device), tuple(captions), source, distinct)


@torch.no_grad()
def conditions(pipe: Pipeline, captions: Sequence[str], uses: Sequence[ScaledAdapter] = ()) -> Mapping[str, Any]:
    """Return the UNet's keyword arguments for captions, read by text encoders with adapters."""
    texts = [ScaledAdapter(use.adapter.only(in_text_encoder), use.scale) for use in uses]
    with attach(pipe.unet, *(use for use in texts if use.adapter.layers), text_encoder=text_encoders(pipe)):
        return unet_arguments(pipe, encode_texts(pipe, captions))


def variant_texts(
    pipe: Pipeline, pair: Sequence[Adapter], variants: Variants, captions: Sequence[str]
) -> tuple[list[Mapping[str, Any]], list[int]]:
    """Return the texts that variants read, and which of them each reads: by which of the pair are on in it."""
    uses = [ScaledAdapter(adapter) for adapter in pair]
    matters = [adapts_text(use) for use in uses]
    on = [tuple(bool(gate[place]) and matters[place] for place in range(len(pair))) for gate in variants.gates]
    kinds = list(dict.fromkeys(on))
    texts = [
        conditions(pipe, captions, [use for use, there in zip(uses, kind, strict=True) if there]) for kind in kinds
    ]
    return texts, [kinds.index(kind) for kind in on]


def adapts_text(use: ScaledAdapter) -> bool:
    """Whether an adapter has layers in a text encoder."""
    return any(map(in_text_encoder, use.adapter.layers))


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """Return the lines of a text file that are not empty; none without a file.

    Raises:
        BwlabError: the file cannot be read or holds no prompt.

    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise BwlabError(f"--prompts {path}", reason, "Give a text file with one prompt a line") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise BwlabError(f"--prompts {path}", "no prompt in it", "Write one prompt a line")
    return prompts


def prompts_beside(path: Path | None, folders: Mapping[str, Path | None]) -> tuple[str, ...]:
    """Return the prompts of a text file, none without one, where there has to be something to look at.

    Args:
        path: of the file.
        folders: of pictures, by the name of the option.

    Raises:
        BwlabError: the file cannot be read or holds no prompt, a folder is none, or there is neither file nor folder.

    """
    for option, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise BwlabError(f"{option} {folder}", *not_a_folder(str(folder)))
    if path is None and not any(folders.values()):
        options = " or ".join(f"{option} DIR" for option in folders)
        raise BwlabError("looking at a base", "no prompt and no pictures", f"Give --prompts FILE or {options}")
    return read_prompts(path)


def checked_timesteps(text: str) -> tuple[int, ...]:
    """Return timesteps typed as `801,601,401,201`, from noise to picture.

    >>> checked_timesteps("201, 801")
    (801, 201)

    Raises:
        BwlabError: one is not a whole number of 0..999, or there is none.

    """
    try:
        times = {int(part) for part in text.split(",") if part.strip()}
    except ValueError:
        times = set()
    if not times or min(times) < 0 or max(times) > 999:
        raise BwlabError(
            f"--timesteps {text or repr(text)}", "not whole numbers of 0..999", "Give, for example, 801,601,401,201"
        )
    return tuple(sorted(times, reverse=True))
