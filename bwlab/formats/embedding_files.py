"""Reads textual-inversion embeddings (Gal et al., arXiv 2208.01618): words with vectors of their own, without torch.

| from | keys |
|---|---|
| diffusers | one, which is the word |
| AUTOMATIC1111, ``.pt`` | ``string_to_param.*``, and the word as ``name`` |
| kohya, AUTOMATIC1111 ``.safetensors`` | ``emb_params`` |
| SDXL | ``clip_l`` for the first text encoder, ``clip_g`` for the second |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bwlab.errors import BwlabError
from bwlab.formats.files import AdapterFile, open_adapter_file
from bwlab.formats.pickles import SUFFIXES, open_pickle
from bwlab.formats.tensors import LazyTensor

ENCODERS = {"clip_l": "te", "clip_g": "te2"}
NAMELESS = ("emb_params", "string_to_param.*")
COUNTER = "string_to_token.*"  # AUTOMATIC1111 keeps the place of "*" in its own vocabulary
FIX = "Give a textual-inversion file of diffusers, AUTOMATIC1111 or kohya"


@dataclass(frozen=True, eq=False)
class Embedding:
    """A word with vectors of its own.

    Attributes:
        word: as prompts write it.
        vectors: `"te"`, and `"te2"` for SDXL -> float32 `(vectors, width)`.
        source: the file, for messages.
    """

    word: str
    vectors: Mapping[str, NDArray[np.float32]]
    source: str = ""


def read_embedding(path: str | Path, word: str | None = None) -> Embedding:
    """The embedding in a file, under the given word, else under that of the file, else under the file's name.

    `.pt` and `.bin` files go through torch's weights-only loader; one that needs more is refused.

    Raises:
        BwlabError: the file is missing, broken, holds something else, or NaN.
    """
    path = Path(path)
    file = open_pickle(path) if path.suffix.lower() in SUFFIXES else open_adapter_file(path)
    keys = [key for key in file.entries if key != COUNTER]
    if set(keys) <= ENCODERS.keys() and keys:
        parts = {ENCODERS[key]: _rows(file, key) for key in ENCODERS if key in keys}
        counts = {len(rows) for rows in parts.values()}
        if len(counts) > 1:
            raise _bad(path, f"clip_l and clip_g hold {' and '.join(map(str, sorted(counts)))} vectors")
        return Embedding(word or file.metadata.get("name") or path.stem, parts, str(path))
    if len(keys) != 1:
        raise _bad(path, f"it holds {len(keys)} tensors where an embedding has one, or clip_l and clip_g")
    own = file.metadata.get("name") or path.stem if keys[0] in NAMELESS else keys[0]
    return Embedding(word or own, {"te": _rows(file, keys[0])}, str(path))


def embeddings_of(tensors: Mapping[str, LazyTensor]) -> list[Embedding]:
    """The words that an adapter file holds beside its modules: token -> tensor, of a second encoder under `te2:`."""
    second = "te2:"
    words = dict.fromkeys(name.removeprefix(second) for name in tensors)
    found = []
    for word in words:
        named = {"te": tensors.get(word), "te2": tensors.get(second + word)}
        vectors = {encoder: _matrix(one) for encoder, one in named.items() if one is not None}
        found.append(Embedding(word, vectors, next(one.source for one in named.values() if one is not None)))
    return found


def _rows(file: AdapterFile, key: str) -> NDArray[np.float32]:
    rows = _matrix(file.tensor(key))
    if rows.ndim != 2 or not rows.size:
        raise _bad(file.path, f"{key} has the shape {tuple(file.entries[key].shape)}, not (vectors, width)")
    return rows


def _matrix(tensor: LazyTensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = tensor.numbers(np.float32).astype(np.float32, copy=False)
    return numbers[None] if numbers.ndim == 1 else numbers


def _bad(path: Path, found: str) -> BwlabError:
    return BwlabError(f"reading embedding {path}", found, FIX)
