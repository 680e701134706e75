"""Which captions of a folder the tagger wrote, so that those that a person edited are left alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from bwlab.errors import BwlabError
from bwlab.formats.atomic import write_atomically

NAME = ".bwlab-tags.json"
VERSION = 1


class WrittenCaptions:
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
