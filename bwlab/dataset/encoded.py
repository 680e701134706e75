"""Captioned images as latents, encoded without a cache, for measurements and methods that need a few images only.

Training uses `bwlab.dataset.latents` instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwlab.base.latents import encode_images
from bwlab.base.models import family_of
from bwlab.dataset.config import DataConfig
from bwlab.dataset.examples import Example, Subset
from bwlab.dataset.folders import MissingCaption, images_of, read_example
from bwlab.errors import BwlabError
from bwlab.images import UnreadableImage, read_image_tensor

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


@dataclass(frozen=True, eq=False)
class EncodedFolder:
    """A folder of captioned images.

    Attributes:
        folder: the folder.
        latents: `(images, channels, h, w)`, scaled as the UNet expects them.
        captions: the caption of each image.

    """

    folder: Path
    latents: Tensor
    captions: tuple[str, ...]


def encode_folder(pipe: Pipeline, folder: Path, most: int, option: str = "--data") -> EncodedFolder:
    """Return the first images of a folder as latents of the base's own size.

    Args:
        pipe: the base, whose autoencoder encodes them.
        folder: a folder of images with captions, as for `bwlab train --data`.
        most: number of images that are read at most.
        option: the option that the folder was given to, for messages.

    Raises:
        BwlabError: there is no such folder or no image in it, or an image is damaged or has no caption.

    """
    side = family_of(pipe).base_side(pipe)
    examples = _examples(folder, most, option)
    try:
        images = torch.stack([read_image_tensor(example.path, side) for example in examples])
    # The advice of this error names settings of a training, which do not exist here.
    except UnreadableImage as error:
        raise BwlabError(error.asked, error.found, "Repair or remove it") from error
    return EncodedFolder(folder, encode_images(pipe.vae, images).mean, tuple(example.caption for example in examples))


def folder_captions(folder: Path, most: int, option: str = "--data") -> tuple[str, ...]:
    """Return the captions of the first images of a folder; see `encode_folder`."""
    return tuple(example.caption for example in _examples(folder, most, option))


def _examples(folder: Path, most: int, option: str) -> list[Example]:
    subset = Subset(DataConfig(folder=str(folder)), f"{option} {folder}")
    try:
        return [read_example(path, subset) for path in images_of(subset)[:most]]
    # The advice of this error names settings of a training, which do not exist here.
    except MissingCaption as error:
        raise BwlabError(error.asked, error.found, "Write the caption") from error
