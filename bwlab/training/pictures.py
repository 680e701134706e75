"""Image files as square pictures for an autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bwlab.errors import BwlabError


class UnreadablePicture(BwlabError):
    """An image file that is no image or is damaged."""


def read_picture(path: Path, side: int) -> Tensor:
    """Return an image as ``(3, side, side)`` float32 in -1..1: over white, resized, its centre cropped.

    Raises:
        UnreadablePicture: the file is no image or is damaged; it is named.
    """
    try:
        with Image.open(path) as file:
            image = over_white(ImageOps.exif_transpose(file))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(f" {str(path)!r}", "").splitlines()[0]
        raise UnreadablePicture(
            f"image {path}", f"unreadable ({reason})", "Repair it, take it away or --set data.skip_broken=true"
        ) from error
    fitted = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted, np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


def over_white(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB, its transparent parts white."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    colours = image.convert("RGBA")
    white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, colours).convert("RGB")
