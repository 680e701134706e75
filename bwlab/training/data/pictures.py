"""Image files as pictures for an autoencoder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from bwlab.errors import BwlabError, first_line
from bwlab.pictures import read_rgb
from bwlab.training.data.framing import Size

TURNED = range(5, 9)  # orientations of EXIF in which width and height change places


class UnreadablePicture(BwlabError):
    """An image file that is no image or is damaged.

    Args:
        path: of the file.
        reason: what the decoder says.
    """

    def __init__(self, path: Path, reason: str) -> None:
        fix = "Repair it, take it away or --set data.skip_broken=true"
        super().__init__(f"image {path}", f"unreadable ({reason})", fix)
        self.path = path


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Inside the ``with`` block every error is an `UnreadablePicture`, and the decoder's warnings are silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise UnreadablePicture(path, first_line(error).replace(f" {str(path)!r}", "")) from error


def read_image(path: Path) -> Image.Image:
    """Return an image, of an animation the first, as RGB in sRGB: turned as the camera says, over white.

    Raises:
        UnreadablePicture: the file is no image or is damaged; it is named.
    """
    with decoding(path):
        return read_rgb(path)


def picture_size(path: Path) -> Size:
    """Return the size of an image, turned as the camera says, from the head of its file.

    Raises:
        UnreadablePicture: the head is no image's; the rest is not looked at.
    """
    with decoding(path), Image.open(path) as file:
        width, height = file.size
        turned = file.getexif().get(ExifTags.Base.Orientation) in TURNED
        return Size(height, width) if turned else Size(width, height)


def read_picture(path: Path, width: int, height: int | None = None, *, mirrored: bool = False) -> Tensor:
    """Return an image as ``(3, height, width)`` float32 in -1..1: resized to cover that size, its middle cropped.

    Args:
        path: of the file.
        width: in pixels.
        height: in pixels; None: as the width.
        mirrored: left and right change places.

    Raises:
        UnreadablePicture: the file is no image or is damaged; it is named.
    """
    image = ImageOps.fit(read_image(path), (width, height or width), Image.Resampling.LANCZOS)
    shown = ImageOps.mirror(image) if mirrored else image
    return torch.from_numpy(np.asarray(shown, np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()
