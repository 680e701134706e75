"""Latents and text embeddings, computed once and kept on disk.

Entries are keyed by content: the picture's bytes, its size and the autoencoder's weights, or the caption, the tokenizer
and the text encoder's weights. A latent is the posterior's mean and deviation, so training still samples it anew at
each step, as it would without a cache. Each entry is computed alone, never in a batch, so its bits depend on nothing
else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bwlab.formats.atomic import write_atomically
from bwlab.formats.folders import make_folder
from bwlab.training.dataset import Example
from bwlab.training.pictures import UnreadablePicture, read_picture

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline

LAYOUT = "1"  # raised when what an entry holds changes


@dataclass(frozen=True)
class Posterior:
    """What an autoencoder says of one picture, before scaling.

    Attributes:
        mean: ``(channels, h, w)`` float32.
        deviation: standard deviation, the same shape.
    """

    mean: Tensor
    deviation: Tensor


def default_cache() -> Path:
    """Return the folder that ``BWLAB_CACHE`` names, or ``~/.cache/bwlab``."""
    chosen = os.environ.get("BWLAB_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "bwlab"


def module_hash(module: nn.Module) -> str:
    """Return a SHA-256 of a module's names, shapes, kinds and weights."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(plain.shape)} {plain.dtype}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class TensorCache:
    """Named groups of tensors in a folder, one safetensors file each.

    Args:
        folder: made when the first entry is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, kind: str, parts: tuple[str, ...], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors for the content ``parts``, made and kept if they are not there or damaged.

        Raises:
            BwlabError: the cache cannot be written.
        """
        key = hashlib.sha256("\n".join((LAYOUT, *parts)).encode()).hexdigest()
        path = self.folder / kind / key[:2] / f"{key}.safetensors"
        kept = read_tensors(path)
        if kept is not None:
            return kept
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in make().items()}
        make_folder(path.parent)
        write_atomically(path, save(tensors))
        return tensors


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file, None if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return None


@torch.no_grad()
def encode_pictures(
    examples: tuple[Example, ...], vae: AutoencoderKL, side: int, cache: TensorCache, tick: Callable[[], None]
) -> dict[str, Posterior | UnreadablePicture]:
    """Return the posterior of each picture by its file's digest, or the error of one that cannot be read.

    Args:
        examples: the pictures.
        vae: in float32.
        side: pixels of the square they are brought to.
        cache: where they are kept.
        tick: called after each picture.
    """
    weights = module_hash(vae)

    def encode(example: Example) -> dict[str, Tensor]:
        picture = read_picture(example.path, side).to(vae.device)
        posterior = vae.encode(picture[None]).latent_dist
        return {"mean": posterior.mean[0], "deviation": posterior.std[0]}

    found: dict[str, Posterior | UnreadablePicture] = {}
    for example in examples:
        try:
            tensors = cache.get("latents", (example.digest, str(side), weights), partial(encode, example))
            found[example.digest] = Posterior(tensors["mean"], tensors["deviation"])
        except UnreadablePicture as error:
            found[example.digest] = error
        tick()
    return found


@torch.no_grad()
def encode_captions(captions: frozenset[str], pipe: StableDiffusionPipeline, cache: TensorCache) -> dict[str, Tensor]:
    """Return the text embedding ``(tokens, width)`` float32 of each caption, as sampling would compute it."""
    weights = module_hash(pipe.text_encoder)
    tokenizer = hashlib.sha256(json.dumps(pipe.tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()

    def encode(caption: str) -> dict[str, Tensor]:
        context, _ = pipe.encode_prompt(caption, pipe.text_encoder.device, 1, False)
        return {"context": context[0]}

    parts = (weights, tokenizer, str(pipe.tokenizer.model_max_length))
    return {
        caption: cache.get("text", (caption, *parts), partial(encode, caption))["context"]
        for caption in sorted(captions)
    }
