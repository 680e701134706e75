"""Write a file completely or not at all, and tell whether it has changed since."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM = "sha256"
"""Key of a checksum in the metadata of a safetensors file."""


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file in the same folder, which is flushed to disk and then renamed.

    If anything fails, an earlier file at `path` stays intact, and no temporary file is left.

    Raises:
        BwlabError: the disk is full, or the folder is missing or not writable.

    """
    write_pieces_atomically(path, (data,))


def write_pieces_atomically(path: str | Path, pieces: Iterable[bytes]) -> None:
    """Write data as `write_atomically` does, in pieces, so that it is never in memory as a whole.

    Raises:
        BwlabError: as `write_atomically`. Errors raised while making a piece pass through, and nothing is written.

    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _write_and_sync(temporary, pieces)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        found = f"{error.strerror or error}" + ("; the earlier file is untouched" if path.exists() else "")
        raise BwlabError(f"saving {path}", found, "Free some space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return a SHA-256 (hex) of a text and of named tensors on the CPU: their names, shapes, dtypes and bytes."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_and_sync(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename survive a power cut, on systems where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, asked: str | None = None) -> None:
    """Make a folder and its parents.

    Args:
        path: the folder, which may exist already.
        asked: what the user asked for, for the error message; by default the name of the folder.

    Raises:
        BwlabError: the folder cannot be made, or a file is in the way.

    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = "a file of that name is in the way" if path.is_file() else error.strerror or str(error)
        raise BwlabError(asked or f"folder {path}", found, "Choose another folder") from error


def cache_folder() -> Path:
    """Return the folder for downloads and caches: the folder that `BWLAB_CACHE` names, or `~/.cache/bwlab`."""
    chosen = os.environ.get("BWLAB_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "bwlab"
