"""Find image files in folders, and read them in any mode as RGB in sRGB or as tensors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, features

from bwlab.errors import BwlabError, first_line

if TYPE_CHECKING:
    from torch import Tensor


def reads_avif() -> bool:
    """Return whether Pillow can read AVIF; versions before 11.3 do not know the format and warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(features.check("avif"))


AVIF_SUFFIXES = frozenset({".avif"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif"})
UNREAD_SUFFIXES = frozenset(
    {".tif", ".tiff", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".ico", ".tga", ".exr", ".hdr"}
    # raw files of cameras
    | {".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw"}
)
if reads_avif():
    IMAGE_SUFFIXES |= AVIF_SUFFIXES
else:
    UNREAD_SUFFIXES |= AVIF_SUFFIXES

# Names of folders that systems and storage devices fill, in lower case; hidden files and folders are left out anyway.
SYSTEM_FOLDERS = frozenset(
    {"__macosx", "$recycle.bin", "system volume information", "lost+found", "found.000"}
    | {"@eadir", "@recycle", "#recycle", "@tmp", "#snapshot", "thumbs", "thumbnails"}
)

MOST_PIXELS = 100_000_000
"""Images of more pixels are not decoded; one of so many takes 0.4 GB, or 1.2 to 2 GB if it has transparent parts."""
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


class LargeImageError(ValueError):
    """Raised for an image of more than `MOST_PIXELS` pixels, before it is decoded."""


def open_image(path: Path) -> Image.Image:
    """Return an image whose pixels are not decoded yet.

    Raises:
        LargeImageError: it has more than `MOST_PIXELS` pixels.
        Exception: almost any kind, since decoders differ on damaged bytes; OSError if there is no such file.

    """
    limit = f"more than {MOST_PIXELS // 1_000_000} million pixels"
    try:
        file = Image.open(path)
    except Image.DecompressionBombError as error:  # Pillow's own limit is higher
        raise LargeImageError(limit) from error
    if file.width * file.height > MOST_PIXELS:
        file.close()
        raise LargeImageError(f"{Size(*file.size)}, {limit}")
    return file


def read_rgb(path: Path) -> Image.Image:
    """Return the image in a file as RGB in sRGB, upright and on white; for an animation, the first image.

    Raises:
        Exception: as `open_image`.

    """
    with open_image(path) as file:
        file.load()
        ImageOps.exif_transpose(file, in_place=True)  # without a copy, which takes much memory of a large image
        return over_white(file)


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
    clear = in_mode(plain, "RGBA")
    # Converted through RGBA, because Pillow warns about palettes with transparency that are converted to RGB directly.
    solid = plain.convert("L") if plain.mode == "LA" else clear.convert("RGB")
    white = Image.new("RGB", plain.size, WHITE)
    white.paste(in_srgb(solid, profile), mask=clear.getchannel("A"))
    return white


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in a mode; the image itself if it has that mode, as a copy of a large one takes much memory."""
    return image if image.mode == mode else image.convert(mode)


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
        return in_mode(plain, "RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return in_mode(plain, "RGB")
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
    with decoding(path), open_image(path) as file:
        width, height = file.size
        swapped = file.getexif().get(ExifTags.Base.Orientation) in SWAPPED_SIDES
        return Size(height, width) if swapped else Size(width, height)


def read_image_tensor(
    path: Path,
    width: int,
    height: int | None = None,
    *,
    resized: tuple[int, int] | None = None,
    mirrored: bool = False,
) -> Tensor:
    """Return an image as `(3, height, width)` float32 in -1..1: resized to cover that size, then cropped to it.

    Args:
        path: the image file.
        width: width in pixels.
        height: height in pixels; None means the same as the width.
        resized: width and height to which it is resized before its middle is cut out; None: it just covers the size.
        mirrored: whether to exchange left and right.

    Raises:
        UnreadableImage: the file is damaged or not an image.

    """
    import torch

    size = width, height or width
    image = read_image(path)
    if resized is None:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    else:
        image = image if image.size == resized else image.resize(resized, Image.Resampling.LANCZOS)
        left, top = ((whole - part) // 2 for whole, part in zip(resized, size, strict=True))
        image = image.crop((left, top, left + size[0], top + size[1]))
    image = ImageOps.mirror(image) if mirrored else image
    return torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder.

    Attributes:
        files: the files, sorted, without those in `left_out`; links to files are files.
        left_out: hidden files and folders, and those of `SYSTEM_FOLDERS`.
        dead_links: links to nothing.
        repeated_links: links to folders that are read already or that contain the link; they are not followed.
        subfolders: folders that are not read, because only the files directly in the folder were asked for.

    """

    files: tuple[Path, ...]
    left_out: tuple[Path, ...]
    dead_links: tuple[Path, ...]
    repeated_links: tuple[Path, ...]
    subfolders: tuple[Path, ...]

    def with_suffix(self, suffixes: frozenset[str]) -> list[Path]:
        """Return the files with one of these suffixes, in any letter case."""
        return [path for path in self.files if path.suffix.lower() in suffixes]


class _FolderReader:
    """Collects the files of a folder; reads each folder once, whatever links lead to it."""

    def __init__(self, recursive: bool) -> None:
        self._recursive = recursive
        self._files: list[Path] = []
        self._left_out: list[Path] = []
        self._dead_links: list[Path] = []
        self._repeated_links: list[Path] = []
        self._subfolders: list[Path] = []
        self._folder_links: list[Path] = []
        self._read: set[Path] = set()

    def read(self, folder: Path) -> FolderFiles:
        """Return the files of a folder; its own subfolders come before those that links lead to."""
        self._read_tree(folder)
        while self._folder_links:
            link = self._folder_links.pop(0)
            target = link.resolve()
            if target in self._read or target in link.parent.resolve().parents:
                self._repeated_links.append(link)
            else:
                self._read_tree(link)
        groups = self._files, self._left_out, self._dead_links, self._repeated_links, self._subfolders
        return FolderFiles(*(tuple(sorted(group)) for group in groups))

    def _read_tree(self, folder: Path) -> None:
        pending = [folder]
        while pending:
            current = pending.pop()
            if current.resolve() in self._read:
                continue
            self._read.add(current.resolve())
            for path in folder_entries(current):
                if self._is_own_folder(path):
                    pending.append(path)

    def _is_own_folder(self, path: Path) -> bool:
        """Return whether a path is a folder to read now; put any other path into its group."""
        if path.name.startswith(".") or path.name.lower() in SYSTEM_FOLDERS:
            self._left_out.append(path)
        elif os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a link into a folder that is not readable
            if not self._recursive:
                self._subfolders.append(path)
            elif path.is_symlink():
                self._folder_links.append(path)
            else:
                return True
        elif os.path.isfile(path):  # noqa: PTH113 - for the same reason
            self._files.append(path)
        elif path.is_symlink():
            self._dead_links.append(path)
        return False


def folder_files(folder: Path, *, recursive: bool = True) -> FolderFiles:
    """Return the files of a folder, and of its subfolders if `recursive`; links are followed.

    Raises:
        BwlabError: a folder cannot be read.

    """
    return _FolderReader(recursive).read(folder)


def folder_entries(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted; BwlabError if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        reason = error.strerror or str(error)
        raise BwlabError(f"folder {folder}", reason, "Make it readable or take it away") from error


def image_paths(folder: Path) -> Iterator[Path]:
    """Yield the image files (`IMAGE_SUFFIXES`) of a folder and its subfolders, sorted, without hidden files.

    A single file that a user names is read whatever its suffix, if Pillow can read it.
    """
    yield from folder_files(folder).with_suffix(IMAGE_SUFFIXES)


def read_images(folder: Path, most: int | None = None) -> list[Image.Image]:
    """Return the images of a folder and its subfolders as RGB on white, sorted by path.

    Args:
        folder: the folder.
        most: number of images at which reading stops; None: all are read.

    Raises:
        BwlabError: there is no such folder or no image in it, or an image cannot be read.

    """
    if not folder.is_dir():
        raise BwlabError(f"reference images {folder}", "no such folder", "Give a folder of images")
    images = []
    for path in islice(image_paths(folder), most):
        try:
            images.append(read_rgb(path))
        except LargeImageError as error:
            raise BwlabError(f"reference image {path}", str(error), "Make it smaller") from error
        except Exception as error:  # decoders raise almost any exception on damaged bytes
            raise BwlabError(f"reference image {path}", "unreadable", "Repair it or take it away") from error
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise BwlabError(f"reference images {folder}", "no images in it", f"Put images ({suffixes}) there")
    return images
