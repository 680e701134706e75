"""Identities and styles as jobs tell them: what decides a result, hashed where it is files."""

from __future__ import annotations

import hashlib
import zlib
from functools import cache
from pathlib import Path

from bwlab_analysis.study.jobs import Json
from bwlab_analysis.study.plan import Subject


def told(subject: Subject) -> dict[str, Json]:
    """Return a subject as JSON, with a hash of its folder's files, since these decide what is learned."""
    return {"name": subject.name, "words": subject.words, "folder": subject.folder, "files": _files(subject.folder)}


def forget_files() -> None:
    """Read folders anew from now on: the next study's may have changed."""
    _files.cache_clear()


@cache
def _files(folder: str | None) -> str | None:
    if folder is None:
        return None
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def seed_of(text: str) -> int:
    """Return a seed of a training, 0..2^32 - 1, that its name decides on every machine alike."""
    return zlib.crc32(text.encode())
