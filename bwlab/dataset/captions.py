"""Caption files: how they are found beside images, and how their text is read."""

from __future__ import annotations

import codecs
import os
import unicodedata
from pathlib import Path, PurePath
from typing import NamedTuple

from bwlab.errors import BwlabError
from bwlab.images import IMAGE_SUFFIXES, folder_entries
from bwlab.text import parse_json

# Endings that trainers and taggers give to captions.
CAPTION_ENDINGS = (".txt", ".caption", ".captions", ".cap", ".tags", ".text", ".prompt", ".json")
JSON_ENDING = ".json"


class OtherCaption(NamedTuple):
    """A file that looks like the caption of an image, but is not read, as it has another ending or lies elsewhere.

    Attributes:
        path: the file.
        extension: value of `data.caption_extension` that reads it, such as `.caption` or `.png.txt`; empty if none
            does, because it is JSON or lies beside the target of a linked image.

    """

    path: Path
    extension: str

    def fix(self, wanted: str) -> str:
        """Return what to do so that the file is read.

        Args:
            wanted: name of the caption file that is missing.

        """
        if self.extension:
            return f"Rename it to {wanted}, or set data.caption_extension = {self.extension}"
        if self.path.suffix.lower() == JSON_ENDING:
            return f"JSON is not read: write the tags of {self.path.name} into {wanted}"
        return f"Link or copy it to {wanted} beside the linked image"


class _FolderNames(NamedTuple):
    """The names in a folder.

    Attributes:
        alike: the names, by `folded` name.
        images: names of the images.

    """

    alike: dict[str, list[str]]
    images: frozenset[str]


class CaptionFiles:
    """Finds the caption files of images. Each folder is listed once, when a caption has not the exact name."""

    def __init__(self) -> None:
        self._folders: dict[Path, _FolderNames] = {}
        self._exact: dict[tuple[Path, str], frozenset[str]] = {}

    def find(self, image: Path, extension: str) -> Path | None:
        """Return the caption file of an image, or None.

        A file that differs in the case of letters or in the form of Unicode (macOS decomposes accents) counts, unless
        it is exactly the caption file of another image.
        """
        wanted = caption_path(image, extension)
        if os.path.exists(wanted):  # noqa: PTH110 - Path.exists raises for a link into a folder that is not readable
            return wanted
        names = self._names(image.parent)
        others = self._exact_names(image.parent, extension)
        alike = [name for name in names.alike.get(folded(wanted.name), ()) if name not in others]
        if not alike:
            return None
        return image.with_name(min(alike, key=lambda name: (not _same_stem(name, wanted.name), name)))

    def find_other(self, image: Path, extension: str) -> OtherCaption | None:
        """Return a file that looks like the caption of an image but has another ending, or None.

        A caption with the right ending beside the target of a linked image counts too.
        """
        names = self._names(image.parent)
        for ending in (*CAPTION_ENDINGS, *(image.suffix + ending for ending in CAPTION_ENDINGS)):
            wanted = caption_path(image, ending)
            for name in names.alike.get(folded(wanted.name), ()):
                path = image.with_name(name)
                if wanted != caption_path(image, extension) and path.is_file() and path.stat().st_size:
                    return OtherCaption(path, "" if ending.endswith(JSON_ENDING) else ending)
        target = image.resolve()
        beside_target = self.find(target, extension) if image.is_symlink() and target.parent.is_dir() else None
        return None if beside_target in (None, caption_path(image, extension)) else OtherCaption(beside_target, "")

    def _names(self, folder: Path) -> _FolderNames:
        if folder not in self._folders:
            names = [path.name for path in folder_entries(folder)]
            alike: dict[str, list[str]] = {}
            for name in names:
                alike.setdefault(folded(name), []).append(name)
            images = (name for name in names if PurePath(name).suffix.lower() in IMAGE_SUFFIXES)
            self._folders[folder] = _FolderNames(alike, frozenset(images))
        return self._folders[folder]

    def _exact_names(self, folder: Path, extension: str) -> frozenset[str]:
        """Return the exact names of the caption files of all images in a folder."""
        key = folder, extension
        if key not in self._exact:
            images = self._names(folder).images
            self._exact[key] = frozenset(caption_path(folder / name, extension).name for name in images)
        return self._exact[key]


def caption_path(image: Path, extension: str) -> Path:
    """Return the exact caption file of an image.

    Args:
        image: the image file.
        extension: extension of captions, with or without its dot. If it begins with the suffix of an image, such as
            `.png.txt`, captions have the whole name of their image: `fox.png.txt`, `owl.jpg.txt`.

    """
    ending = f".{extension.removeprefix('.')}"
    first, *rest = PurePath(f"x{ending}").suffixes or [ending]
    if rest and first.lower() in IMAGE_SUFFIXES:
        return image.with_name(image.name + "".join(rest))
    return image.with_name(image.stem + ending)


def folded(name: str) -> str:
    """Return a file name without the differences in letter case and Unicode form that file systems make."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())


def _same_stem(name: str, other: str) -> bool:
    return unicodedata.normalize("NFC", PurePath(name).stem) == unicodedata.normalize("NFC", PurePath(other).stem)


def read_caption_text(path: Path) -> str:
    """Return the text of a caption file, with `\\n` between lines.

    Raises:
        BwlabError: the file cannot be read as text, or is JSON.
        FileNotFoundError: there is no such file.

    """
    try:
        text = decoded_text(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = "not readable as UTF-8 or UTF-16 text"
        raise BwlabError(f"caption {path}", reason, "Correct the file or save it as UTF-8") from error
    if path.suffix.lower() == JSON_ENDING and is_json_object(text):
        raise BwlabError(f"caption {path}", "JSON, which is not read", "Write its tags into a text file")
    return text


def is_json_object(text: str) -> bool:
    """Return whether a text is a JSON object or array, and no list of tags."""
    try:
        return isinstance(parse_json(text), dict | list)
    except ValueError:
        return False


def decoded_text(content: bytes) -> str:
    """Return text in UTF-8 or UTF-16, each with or without a byte order mark.

    Raises:
        ValueError: it is no such text.

    >>> decoded_text("fox, ink".encode("utf-16"))
    'fox, ink'

    """
    text = content.decode(encoding_of(content))
    if "\0" in text:
        raise ValueError("zero bytes, which text does not have")
    return text


def encoding_of(content: bytes) -> str:
    """Return the encoding of a text by its byte order mark, else by the zero bytes that UTF-16 has in Latin text."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" not in content:
        return "utf-8-sig"
    return "utf-16-le" if content[1::2].count(0) > content[::2].count(0) else "utf-16-be"
