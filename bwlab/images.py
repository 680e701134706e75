"""Image files and images of every mode as RGB."""

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


WHITE = (255, 255, 255)
OWN_PROFILES = ("RGB", "CMYK", "L")  # modes that profiles describe

TURNED = range(5, 9)  # orientations of EXIF in which width and height change places

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".avif"})
UNREAD_SUFFIXES = frozenset({".tif", ".tiff", ".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".ico", ".tga"})


def read_rgb(path: Path) -> Image.Image:
    """Return the image in a file, of an animation the first, as RGB in sRGB: turned as the camera says, over white.

    Raises:
        Exception: nearly any kind, as decoders do for damaged bytes; OSError where there is no such file.

    """
    with Image.open(path) as file:
        return over_white(ImageOps.exif_transpose(file))


def over_white(image: Image.Image) -> Image.Image:
    """Return an image as RGB in sRGB, its transparent parts white.

    Colours of a profile that the file carries are brought to sRGB; a profile that is broken or of other colours than
    the image counts as none.

    Raises:
        ValueError: numbers that are no colours (floats, 32-bit integers).

    """
    plain = in_eight_bits(image)
    profile = image.info.get("icc_profile")
    if not plain.has_transparency_data:
        return in_srgb(plain, profile)
    clear = plain.convert("RGBA")
    # Taken from RGBA, as Pillow warns of palettes with transparency that are made RGB at once.
    solid = plain.convert("L") if plain.mode == "LA" else clear.convert("RGB")
    white = Image.new("RGB", plain.size, WHITE)
    white.paste(in_srgb(solid, profile), mask=clear.getchannel("A"))
    return white


def in_eight_bits(image: Image.Image) -> Image.Image:
    """Return an image with 8 bits a channel; Pillow itself would clip 16 bits of grey to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I" and image.format == "PNG":  # 16 bits of grey, in older versions of Pillow
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, which are no colours")
    return image


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image without transparency as RGB in sRGB, from the colours of `profile` if it has one."""
    own = image if image.mode in OWN_PROFILES else image.convert("RGB")
    if not profile:
        return own.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        found = ImageCms.profileToProfile(own, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return own.convert("RGB")
    assert found is not None  # only where it works in place
    return found


class UnreadableImage(BwlabError):
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
    """Inside the `with` block every error is an `UnreadableImage`, and the decoder's warnings are silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise UnreadableImage(path, first_line(error).replace(f" {str(path)!r}", "")) from error


def read_image(path: Path) -> Image.Image:
    """Return an image, of an animation the first, as RGB in sRGB: turned as the camera says, over white.

    Raises:
        UnreadablePicture: the file is no image or is damaged; it is named.

    """
    with decoding(path):
        return read_rgb(path)


def image_size(path: Path) -> Size:
    """Return the size of an image, turned as the camera says, from the head of its file.

    Raises:
        UnreadablePicture: the head is no image's; the rest is not looked at.

    """
    with decoding(path), Image.open(path) as file:
        width, height = file.size
        turned = file.getexif().get(ExifTags.Base.Orientation) in TURNED
        return Size(height, width) if turned else Size(width, height)


def read_image_tensor(path: Path, width: int, height: int | None = None, *, mirrored: bool = False) -> Tensor:
    """Return an image as `(3, height, width)` float32 in -1..1: resized to cover that size, its middle cropped.

    Args:
        path: of the file.
        width: in pixels.
        height: in pixels; None: as the width.
        mirrored: left and right change places.

    Raises:
        UnreadablePicture: the file is no image or is damaged; it is named.

    """
    import torch

    image = ImageOps.fit(read_image(path), (width, height or width), Image.Resampling.LANCZOS)
    shown = ImageOps.mirror(image) if mirrored else image
    return torch.from_numpy(np.asarray(shown, np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


def image_paths(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """Yield the image files in `folder`, of subfolders too if `deep`, sorted, without hidden ones."""
    yield from paths_with(IMAGE_SUFFIXES, folder, deep)


def paths_with(suffixes: frozenset[str], folder: Path, deep: bool) -> Iterator[Path]:
    """Yield the files with one of these suffixes, sorted, without hidden ones and those in hidden folders."""
    for path in sorted(folder.rglob("*") if deep else folder.iterdir()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and path.is_file() and not hidden:
            yield path


def read_images(folder: Path) -> list[Image.Image]:
    """Return the pictures of a folder and its subfolders, by path; transparent parts are white.

    Raises:
        BwlabError: no such folder, none in it, or one that cannot be read.

    """
    if not folder.is_dir():
        raise BwlabError(f"reference pictures {folder}", "no such folder", "Give a folder of pictures")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise BwlabError(
            f"reference pictures {folder}", "no pictures in it", f"Put {', '.join(IMAGE_SUFFIXES)} files there"
        )
    pictures = []
    for path in paths:
        try:
            pictures.append(read_rgb(path))
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise BwlabError(f"reference picture {path}", "unreadable", "Repair it or take it away") from error
    return pictures


class Size(NamedTuple):
    """Of a picture, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"
