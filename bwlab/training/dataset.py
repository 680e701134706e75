"""A folder of pictures with captions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bwlab.errors import BwlabError
from bwlab.training.data_config import DataConfig

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
REPEATS_FOLDER = re.compile(r"(\d+)_.*")


@dataclass(frozen=True)
class Example:
    """One picture to learn from.

    Attributes:
        path: the image file.
        caption: comma-separated tags.
        repeats: times it counts in an epoch.
        digest: SHA-256 of the file.
    """

    path: Path
    caption: str
    repeats: int
    digest: str


def read_dataset(config: DataConfig) -> tuple[Example, ...]:
    """Return the examples of a folder and all its subfolders, sorted by path.

    Images in a folder named ``25_name`` count 25 times an epoch, all others ``config.repeats`` times. Hidden files
    and folders are left out.

    Raises:
        BwlabError: no such folder, no images in it, a caption that is missing or unreadable, repeats of 0.
    """
    folder = Path(config.folder)
    if not config.folder or not folder.is_dir():
        found = "no such folder" if config.folder else "no data folder given"
        raise BwlabError(f"--data {config.folder}".rstrip(), found, "Give a folder of images with .txt captions")
    paths = list(image_paths(folder))
    if not paths:
        wanted = ", ".join(sorted(SUFFIXES))
        raise BwlabError(f"--data {folder}", "no images in it", f"Put images ({wanted}) and .txt captions there")
    return tuple(read_example(path, config) for path in paths)


def image_paths(folder: Path) -> Iterator[Path]:
    """Yield the image files under ``folder``, sorted, without hidden ones."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            yield path


def read_example(path: Path, config: DataConfig) -> Example:
    """Return the example of one image file; BwlabError if it cannot be opened or has no caption."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BwlabError(f"image {path}", error.strerror or str(error), "Make it readable or take it away") from error
    return Example(path, read_caption(path, config.caption), folder_repeats(path.parent, config.repeats), digest)


def folder_repeats(folder: Path, default: int) -> int:
    """Return the repeats that a folder's name states (``25_name``), else ``default``; BwlabError if it states 0."""
    named = REPEATS_FOLDER.fullmatch(folder.resolve().name)
    if named is None:
        return default
    if int(named[1]) == 0:
        raise BwlabError(f"data folder {folder}", "its name asks for 0 repeats", "Rename it, for example to 1_name")
    return int(named[1])


def read_caption(image: Path, default: str | None) -> str:
    """Return the tags of the ``.txt`` beside an image, joined by ``", "``; an empty or missing one is ``default``.

    Raises:
        BwlabError: no caption and no default, or a file that is not UTF-8 text.
    """
    path = image.with_suffix(".txt")
    try:
        caption = joined_tags(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        caption = ""
    except (OSError, UnicodeDecodeError) as error:
        raise BwlabError(f"caption {path}", "not readable as UTF-8 text", "Correct the file") from error
    if caption:
        return caption
    if default is None:
        raise BwlabError(f"caption of {image}", f"{path.name} is missing or empty", "Write it or give data.caption")
    return joined_tags(default)


def joined_tags(text: str) -> str:
    """Return comma- or line-separated tags joined by ``", "``, without empty ones.

    >>> joined_tags("a fox ,, ink\\n")
    'a fox, ink'
    """
    return ", ".join(tag for tag in (part.strip() for part in re.split(r"[,\n]", text)) if tag)


def dataset_hash(examples: tuple[Example, ...]) -> str:
    """Return a SHA-256 of what is learned from: images, captions and repeats, but not where they lie."""
    lines = sorted(f"{example.digest} {example.repeats} {example.caption}" for example in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
