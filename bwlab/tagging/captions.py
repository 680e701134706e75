"""Captions as the tagger writes them: what becomes of an existing one, and which captions are the tagger's own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from bwlab.errors import BwlabError
from bwlab.files import write_atomically
from bwlab.text import parse_json

Action = Literal["new", "refreshed", "appended", "overwritten", "unchanged", "kept"]

RECORD_NAME = ".bwlab-tags.json"
RECORD_VERSION = 1


class Mode(Enum):
    """What to do with captions that a person wrote or edited."""

    KEEP = "keep"
    APPEND = "append"
    OVERWRITE = "overwrite"


@dataclass(frozen=True)
class CaptionUpdate:
    """The new text of a caption.

    Attributes:
        text: the text.
        action: how it differs from the text before.
        is_own: whether the tagger wrote all of the text.

    """

    text: str
    action: Action
    is_own: bool


def updated_caption(
    before: str | None, is_own: bool, prefix: Sequence[str], tags: Sequence[str], mode: Mode
) -> CaptionUpdate:
    """Return the new text of a caption.

    Args:
        before: text of the caption file; None if it does not exist.
        is_own: whether the tagger wrote all of that text.
        prefix: tags that come first.
        tags: new tags of the image.
        mode: what to do with a caption that a person wrote or edited.

    """
    fresh = joined_tags([*prefix, *tags])
    if before is None or (not before.strip() and not is_own):
        return CaptionUpdate(fresh, "new", True)
    if mode is Mode.APPEND:
        text = with_missing_tags(before, prefix, tags)
        return CaptionUpdate(text, "unchanged" if text == before else "appended", is_own)
    if not is_own and mode is Mode.KEEP:
        return CaptionUpdate(before, "kept", False)
    if before == fresh:
        return CaptionUpdate(before, "unchanged", True)
    return CaptionUpdate(fresh, "refreshed" if is_own else "overwritten", True)


def with_missing_tags(before: str, prefix: Sequence[str], tags: Sequence[str]) -> str:
    """Return a caption with the missing tags: of the prefix in front, of the others behind."""
    present = parse_tags(before)
    known = {tag.lower() for tag in present}
    front = [tag for tag in prefix if tag.lower() not in known]
    behind = [tag for tag in tags if tag.lower() not in known]
    return ", ".join([*unique(front), *present, *unique(behind)]) if front or behind else before


def parse_tags(caption: str) -> list[str]:
    """Return the tags of a caption, without surrounding blanks and empty tags; each line has tags of its own.

    >>> parse_tags("ink,  a fox ,,\\nred hat\\n")
    ['ink', 'a fox', 'red hat']
    """
    return [tag for part in re.split(r"[,\r\n]", caption) if (tag := " ".join(part.split()))]


def joined_tags(tags: Iterable[str]) -> str:
    """Return the caption of tags, each of them once.

    >>> joined_tags(["ink", "fox", "Ink"])
    'ink, fox'
    """
    return ", ".join(unique(tags))


def unique(tags: Iterable[str]) -> list[str]:
    """Return the tags without repeated ones; case does not count."""
    spellings: dict[str, str] = {}
    for tag in tags:
        spellings.setdefault(tag.lower(), tag)
    return list(spellings.values())


class CaptionRecord:
    """The captions of a folder that the tagger wrote: `.bwlab-tags.json`, beside them, with a hash of each.

    A caption with another hash or without one is a person's. So whatever happens to the record, at worst captions are
    kept that could have been refreshed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD_NAME
        self._hashes = _read(self.path)
        self._changed = False

    def is_own(self, caption: Path, text: str) -> bool:
        """Return whether a caption file still holds the text that the tagger wrote."""
        return self._hashes.get(caption.name) == _hash(text)

    def add(self, caption: Path, text: str) -> None:
        """Record that the tagger wrote all of a caption."""
        self._set(caption.name, _hash(text))

    def remove(self, caption: Path) -> None:
        """Record that a person wrote or edited a caption."""
        self._set(caption.name, None)

    def save(self) -> None:
        """Write the record if it has changed; BwlabError if that fails."""
        if self._changed:
            text = json.dumps({"version": RECORD_VERSION, "captions": dict(sorted(self._hashes.items()))}, indent=1)
            write_atomically(self.path, f"{text}\n".encode())
            self._changed = False

    def _set(self, name: str, digest: str | None) -> None:
        if self._hashes.get(name) == digest:
            return
        if digest is None:
            del self._hashes[name]
        else:
            self._hashes[name] = digest
        self._changed = True


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        captions = record["captions"]
        if record["version"] != RECORD_VERSION or not isinstance(captions, Mapping):
            raise ValueError("another version")
        return {str(name): str(digest) for name, digest in captions.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "Delete it; the existing captions then count as edited by a person"
        raise BwlabError(f"record {path}", "not readable as a record of tags", fix) from error
