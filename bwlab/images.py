"""Find image files in folders, and read them in any mode as RGB in sRGB or as tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from bwlab.errors import BwlabError, first_line

if TYPE_CHECKING:
    from torch import Tensor


IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".avif"})
UNREAD_SUFFIXES = frozenset({".tif", ".tiff", ".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".ico", ".tga"})

WHITE = (255, 255, 255)
PROFILE_MODES = ("RGB", "CMYK", "L")  # modes that colour profiles describe
SWAPPED_SIDES = range(5, 9)  # EXIF orientations that exchange width and height


class Size(NamedTuple):
    """The size of an image, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


class UnreadableImage(BwlabError):
    """An image file that is damaged or not an image.

    Args:
        path: the file.
        reason: the decoder's message.

    """

    def __init__(self, path: Path, reason: str) -> None:
        fix = "Repair it, remove it, or --set data.skip_broken=true"
        super().__init__(f"image {path}", f"unreadable ({reason})", fix)
        self.path = path


def read_rgb(path: Path) -> Image.Image:
    """Return the image in a file as RGB in sRGB, upright and on white; for an animation, the first image.

    Raises:
        Exception: almost any kind, since decoders differ on damaged bytes; OSError if there is no such file.

    """
    with Image.open(path) as file:
        return over_white(ImageOps.exif_transpose(file))


def over_white(image: Image.Image) -> Image.Image:
    """Return an image as RGB in sRGB, with white in place of transparent parts.

    Colours are converted from the file's colour profile; a profile that is broken or has another mode than the
    image is ignored.

    Raises:
        ValueError: the pixels are floats or 32-bit integers, which are not colours.

    """
    plain = in_eight_bits(image)
    profile = image.info.get("icc_profile")
    if not plain.has_transparency_data:
        return in_srgb(plain, profile)
    clear = plain.convert("RGBA")
    # Converted through RGBA, because Pillow warns about palettes with transparency that are converted to RGB directly.
    solid = plain.convert("L") if plain.mode == "LA" else clear.convert("RGB")
    white = Image.new("RGB", plain.size, WHITE)
    white.paste(in_srgb(solid, profile), mask=clear.getchannel("A"))
    return white


def in_eight_bits(image: Image.Image) -> Image.Image:
    """Return an image with 8 bits per channel; Pillow would clip 16-bit grey to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I" and image.format == "PNG":  # how older versions of Pillow read 16 bits of grey
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, which are no colours")
    return image


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image without transparency as RGB in sRGB, converted from its colour profile if it has one."""
    plain = image if image.mode in PROFILE_MODES else image.convert("RGB")
    if not profile:
        return plain.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return plain.convert("RGB")
    assert converted is not None  # None is for conversions in place
    return converted


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Raise every error of a `with` block as `UnreadableImage`, and silence the decoder's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:  # decoders raise almost any exception on damaged bytes
            raise UnreadableImage(path, first_line(error).replace(f" {str(path)!r}", "")) from error


def read_image(path: Path) -> Image.Image:
    """Return the image in a file as RGB in sRGB, upright and on white; for an animation, the first image.

    Raises:
        UnreadableImage: the file is damaged or not an image.

    """
    with decoding(path):
        return read_rgb(path)


def image_size(path: Path) -> Size:
    """Return the size of an upright image from the first bytes of its file.

    Raises:
        UnreadableImage: the file does not begin like an image; the rest of the file is not read.

    """
    with decoding(path), Image.open(path) as file:
        width, height = file.size
        swapped = file.getexif().get(ExifTags.Base.Orientation) in SWAPPED_SIDES
        return Size(height, width) if swapped else Size(width, height)


def read_image_tensor(path: Path, width: int, height: int | None = None, *, mirrored: bool = False) -> Tensor:
    """Return an image as `(3, height, width)` float32 in -1..1: resized to cover that size, then cropped to it.

    Args:
        path: the image file.
        width: width in pixels.
        height: height in pixels; None means the same as the width.
        mirrored: whether to exchange left and right.

    Raises:
        UnreadableImage: the file is damaged or not an image.

    """
    import torch

    image = ImageOps.fit(read_image(path), (width, height or width), Image.Resampling.LANCZOS)
    image = ImageOps.mirror(image) if mirrored else image
    return torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


def image_paths(folder: Path, *, recursive: bool = True) -> Iterator[Path]:
    """Yield the image files (`IMAGE_SUFFIXES`) of a folder, and of its subfolders if `recursive`, without hidden files.

    The files are sorted. A single file that a user names is read whatever its suffix, if Pillow can read it.
    """
    yield from paths_with(IMAGE_SUFFIXES, folder, recursive)


def paths_with(suffixes: frozenset[str], folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield the files with one of these suffixes, sorted, without hidden files and folders."""
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and path.is_file() and not hidden:
            yield path


def read_images(folder: Path) -> list[Image.Image]:
    """Return the images of a folder and its subfolders as RGB on white, sorted by path.

    Raises:
        BwlabError: there is no such folder or no image in it, or an image cannot be read.

    """
    if not folder.is_dir():
        raise BwlabError(f"reference images {folder}", "no such folder", "Give a folder of images")
    images = []
    for path in image_paths(folder):
        try:
            images.append(read_rgb(path))
        except Exception as error:  # decoders raise almost any exception on damaged bytes
            raise BwlabError(f"reference image {path}", "unreadable", "Repair it or take it away") from error
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise BwlabError(f"reference images {folder}", "no images in it", f"Put images ({suffixes}) there")
    return images
