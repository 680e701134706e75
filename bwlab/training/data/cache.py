"""Tensors that cost time to compute, kept on disk under what they were computed from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bwlab.formats.atomic import write_atomically
from bwlab.formats.folders import make_folder

LAYOUT = "2"  # raised when what an entry holds changes, or how pictures are read
CHECKSUM = "sha256"


class TensorCache:
    """Named groups of tensors in a folder, one safetensors file each.

    Several runs may use it at once: entries are written whole or not at all, and two runs that make the same entry
    write the same.

    Args:
        folder: made when the first entry is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, kind: str, parts: tuple[str, ...], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors for the content ``parts``, made and kept if they are not there or damaged.

        Raises:
            BwlabError: the cache cannot be written.
        """
        key = hashlib.sha256("\n".join((LAYOUT, *parts)).encode()).hexdigest()
        path = self.folder / kind / key[:2] / f"{key}.safetensors"
        kept = read_tensors(path)
        if kept is not None:
            return kept
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in make().items()}
        make_folder(path.parent)
        write_atomically(path, save(tensors, {CHECKSUM: checksum(tensors)}))
        return tensors


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 of named tensors on the CPU."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file, None if it is missing or damaged in the least."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            whole = (file.metadata() or {}).get(CHECKSUM) == checksum(tensors)
    except (OSError, SafetensorError):
        return None
    return tensors if whole else None
