"""Painting from a picture instead of noise: how far to leave it, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.base.architectures import Pipeline

DEFAULT_STRENGTH = 0.75


@dataclass(frozen=True, eq=False)
class InitImage:
    """What painting starts from.

    Attributes:
        image: RGB.
        strength: the part of the sampling that is done, 0 < strength <= 1; 1 keeps nothing of the picture.
        mask: of the picture's size, `"L"`, white where it is painted anew; None: everywhere.

    """

    image: Image.Image
    strength: float = DEFAULT_STRENGTH
    mask: Image.Image | None = None

    def steps(self, steps: int) -> int:
        """Return how many of so many sampling steps are done."""
        return min(int(steps * self.strength), steps)

    def kept(self, painted: Image.Image) -> Image.Image:
        """Return a painted picture with the start's own pixels wherever the mask is black."""
        from PIL import Image

        return painted if self.mask is None else Image.composite(painted, self.image, self.mask)


def read_init_image(image: Path, strength: float, mask: Path | None, pipe: Pipeline) -> InitImage:
    """Return a start from files, fitted to the base's own size.

    Raises:
        BwlabError: a file is no picture, or mask and picture differ in size.

    """
    picture = read_picture(image, "--image")
    if mask is None:
        return InitImage(fitted(picture, pipe), strength)
    where = read_picture(mask, "--mask").convert("L")
    if where.size != picture.size:
        sizes = [f"{one.width} x {one.height}" for one in (where, picture)]
        raise BwlabError(f"--mask {mask}", f"it has {sizes[0]} pixels, the picture {sizes[1]}", "Give one of its size")
    halves = fitted(where, pipe).point([255 if level >= 128 else 0 for level in range(256)])
    if halves.getextrema() == (0, 0):
        raise BwlabError(f"--mask {mask}", "it is black all over", "Make it white where the picture is painted anew")
    return InitImage(fitted(picture, pipe), strength, halves)


def read_picture(path: Path, option: str) -> Image.Image:
    """Return the picture in a file as `bwlab.images.read_rgb` does; `BwlabError` if it is none."""
    from bwlab.images import read_rgb

    try:
        return read_rgb(path)
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        found = "a folder" if path.is_dir() else "not a readable picture" if path.exists() else "no such file"
        raise BwlabError(f"{option} {path}", found, "Give a picture file") from error


def fitted(picture: Image.Image, pipe: Pipeline) -> Image.Image:
    """Return the middle of a picture, as much as fits, in the base's own size."""
    from PIL import Image, ImageOps

    side = int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)
    # Whole factors keep the pixels of small art sharp, as sheets do.
    sharp = picture.width == picture.height and side % picture.width == 0
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    return ImageOps.fit(picture, (side, side), method)


def settings(start: InitImage | None, count: int, masked: bool = True) -> dict[str, object]:
    """Return the arguments of diffusers' pipelines that say what so many pictures start from, the mask if `masked`."""
    if start is None:
        return {}
    pictures: dict[str, object] = {"image": _copies(start.image, count), "strength": start.strength}
    if start.mask is not None and masked:
        pictures |= {"mask_image": _copies(start.mask, count), "height": start.image.height, "width": start.image.width}
    return pictures


def _copies(picture: Image.Image, count: int) -> Sequence[Image.Image]:
    return [picture] * count
