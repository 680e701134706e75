"""What a caption becomes: refreshed, kept, or added to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from bwlab.errors import BwlabError
from bwlab.files import write_atomically

Action = Literal["new", "refreshed", "appended", "overwritten", "unchanged", "kept"]

NAME = ".bwlab-tags.json"
VERSION = 1


class Mode(Enum):
    """What to do with captions that a person wrote or edited."""

    KEEP = "keep"
    APPEND = "append"
    OVERWRITE = "overwrite"


@dataclass(frozen=True)
class CaptionUpdate:
    """What becomes of one caption.

    Attributes:
        text: of the file from now on.
        action: what it was that happened.
        own: whether all of the text is the tagger's.

    """

    text: str
    action: Action
    own: bool


def updated_caption(before: str | None, is_own: bool, prefix: Sequence[str], tags: Sequence[str], mode: Mode) -> CaptionUpdate:
    """Return what a caption becomes.

    Args:
        before: the file's text; None if there is none.
        is_own: whether the tagger wrote all of it.
        prefix: tags that come first.
        tags: what the tagger says now.
        mode: for captions that are a person's.

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
    """Return a caption with what it lacks of the prefix in front and of the tags behind; as it was if it lacks nothing."""
    there = parse_tags(before)
    known = {tag.lower() for tag in there}
    front = [tag for tag in prefix if tag.lower() not in known]
    behind = [tag for tag in tags if tag.lower() not in known]
    return ", ".join([*unique(front), *there, *unique(behind)]) if front or behind else before


def parse_tags(caption: str) -> list[str]:
    """Return the tags of a caption, without blanks around them and empty ones.

    >>> tags_of("ink,  a fox ,,\\n")
    ['ink', 'a fox']
    """
    return [tag for part in caption.split(",") if (tag := " ".join(part.split()))]


def joined_tags(tags: Iterable[str]) -> str:
    """Return the caption of these tags, each once.

    >>> joined(["ink", "fox", "Ink"])
    'ink, fox'
    """
    return ", ".join(unique(tags))


def unique(tags: Iterable[str]) -> list[str]:
    """Return the tags without those that came before, upper and lower case being one."""
    found: dict[str, str] = {}
    for tag in tags:
        found.setdefault(tag.lower(), tag)
    return list(found.values())


class CaptionRecord:
    """The record of one folder: `.bwlab-tags.json`, beside the captions, with a hash of each as it was written.

    A caption whose hash is another, or that is not in it, is a person's. So whatever goes wrong with the record, at
    worst captions are kept that could have been refreshed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._hashes = _read(self.path)
        self._changed = False

    def is_own(self, caption: Path, text: str) -> bool:
        """Whether the file holds what the tagger wrote there."""
        return self._hashes.get(caption.name) == _hash(text)

    def note(self, caption: Path, text: str) -> None:
        """Take down that the tagger wrote all of this."""
        self._set(caption.name, _hash(text))

    def forget(self, caption: Path) -> None:
        """Take down that a person's words are in the file."""
        self._set(caption.name, None)

    def save(self) -> None:
        """Write the record, if it changed; raises `BwlabError` if that fails."""
        if self._changed:
            text = json.dumps({"version": VERSION, "captions": dict(sorted(self._hashes.items()))}, indent=1)
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
        found = json.loads(path.read_text(encoding="utf-8"))
        captions = found["captions"]
        if found["version"] != VERSION or not isinstance(captions, Mapping):
            raise ValueError("another version")
        return {str(name): str(digest) for name, digest in captions.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "Delete it; captions that are there then count as edited by a person"
        raise BwlabError(f"record {path}", "not readable as a record of tags", fix) from error
