"""Init images: sampling starts from an image in place of noise, with a strength and an optional mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from PIL import Image

DEFAULT_STRENGTH = 0.75


@dataclass(frozen=True, eq=False)
class InitImage:
    """The image that sampling starts from.

    Attributes:
        image: the RGB image.
        strength: share of the sampling that is done, 0 < strength <= 1; 1 keeps nothing of the image.
        mask: mask of the image's size, `"L"`, white where the image is generated anew; None: everywhere.

    """

    image: Image.Image
    strength: float = DEFAULT_STRENGTH
    mask: Image.Image | None = None

    def steps(self, steps: int) -> int:
        """Return the number of sampling steps that are done, out of all steps."""
        return min(int(steps * self.strength), steps)

    def kept(self, generated: Image.Image) -> Image.Image:
        """Return a generated image with the pixels of the init image wherever the mask is black."""
        from PIL import Image

        return generated if self.mask is None else Image.composite(generated, self.image, self.mask)


def read_init_image(image: Path, strength: float, mask: Path | None, size: tuple[int, int]) -> InitImage:
    """Return an init image from files, fitted to the width and height of the images to generate.

    Raises:
        BwlabError: a file is not an image, or mask and image differ in size.

    """
    whole = read_image(image, "--image")
    if mask is None:
        return InitImage(fitted(whole, size), strength)
    white = read_image(mask, "--mask").convert("L")
    if white.size != whole.size:
        found = f"it has {_size(white)} pixels, the image {_size(whole)}"
        raise BwlabError(f"--mask {mask}", found, "Give a mask of the image's size")
    mask_image = fitted(white, size).point([255 if level >= 128 else 0 for level in range(256)])
    if mask_image.getextrema() == (0, 0):
        raise BwlabError(f"--mask {mask}", "the whole mask is black", "Make it white where the image is generated anew")
    if mask_image.getextrema() == (255, 255):
        found = "the whole mask is white, as transparent parts are too"
        raise BwlabError(f"--mask {mask}", found, "Make it black where the image is kept, or leave out --mask")
    return InitImage(fitted(whole, size), strength, mask_image)


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"


def read_image(path: Path, option: str) -> Image.Image:
    """Return the image in a file as `bwlab.images.read_rgb` does; `BwlabError` if it cannot be read."""
    from bwlab.images import LargeImageError, read_rgb

    try:
        return read_rgb(path)
    except LargeImageError as error:
        raise BwlabError(f"{option} {path}", str(error), "Make it smaller") from error
    except Exception as error:  # decoders raise almost any exception on damaged bytes
        found = "a folder" if path.is_dir() else "not a readable image" if path.exists() else "no such file"
        raise BwlabError(f"{option} {path}", found, "Give an image file") from error


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the middle of an image, as much as fits, scaled to a width and height."""
    from PIL import Image, ImageOps

    # Whole factors keep the pixels of small images sharp, as contact sheets do.
    factor = size[0] // image.width
    sharp = (factor * image.width, factor * image.height) == size
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    return ImageOps.fit(image, size, method)


def settings(init_image: InitImage | None, count: int, masked: bool = True) -> dict[str, object]:
    """Return the arguments of diffusers' pipelines for `count` images from an init image, with its mask if `masked`."""
    if init_image is None:
        return {}
    image, mask = init_image.image, init_image.mask
    arguments: dict[str, object] = {"image": [image] * count, "strength": init_image.strength}
    if mask is not None and masked:
        arguments |= {"mask_image": [mask] * count, "height": image.height, "width": image.width}
    return arguments
