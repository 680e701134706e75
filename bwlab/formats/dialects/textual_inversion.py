"""Files of textual inversion: embeddings of new tokens and nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.formats.types import FormatReader, FormatWriter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.safetensors import AdapterFile
    from bwlab.formats.tensors import LazyTensor


# A1111, kohya, and for SDXL one embedding per encoder; these files do not contain the token, which is the file's name.
NAMELESS = {"string_to_param.*": "", "emb_params": "", "clip_l": "", "clip_g": "te2:"}
# diffusers: the token is the key. Other dialects' keys have dots or colons, a list's are numbers.
TOKEN = re.compile(r"<[^<>]+>|(?!\d+$)[^.:]+")

SECOND = "te2:"
UNFIT = re.compile(r"[^\w.-]+")  # for names of files

ENCODERS = {"clip_l": "te", "clip_g": "te2"}
NAMELESS_KEYS = ("emb_params", "string_to_param.*")
COUNTER = "string_to_token.*"  # AUTOMATIC1111 keeps the index of "*" in its own vocabulary
USE_EMBEDDING_FILE = "Give a textual-inversion file of diffusers, AUTOMATIC1111 or kohya"


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Return whether every key is the key of an embedding."""
    return bool(keys) and all(key in NAMELESS or TOKEN.fullmatch(key) for key in keys)


def read(file: AdapterFile) -> AdapterContents:
    """Return the embeddings of a file; tensors of more than two dimensions are not embeddings."""
    from bwlab.formats.contents import assemble

    name = file.metadata.get("name", file.path.stem)
    embeddings, unknown = {}, []
    for key, entry in file.entries.items():
        if len(entry.shape) in (1, 2) and 0 not in entry.shape:
            embeddings[NAMELESS[key] + name if key in NAMELESS else key] = file.tensor(key)
        else:
            unknown.append(key)
    return assemble(file, "embedding", (), embeddings=embeddings, unknown=unknown)


def write_embeddings(embeddings: Mapping[str, LazyTensor], out: Path) -> list[Path]:
    """Write one file per token next to the adapter `out`, and return the paths.

    For Stable Diffusion 1.x and 2.x, the key is the token, as in diffusers; for SDXL, `clip_l` and `clip_g` hold the
    embeddings for the two encoders, and the metadata holds the token.
    """
    from bwlab.formats.safetensors import write_tensors

    for (token, tensors), path in zip(_by_token(embeddings).items(), embedding_paths(embeddings, out), strict=True):
        metadata, named = {"format": "pt"}, {token: tensors.get(token)}
        if SECOND + token in tensors:
            metadata["name"] = token
            named = {"clip_l": tensors.get(token), "clip_g": tensors[SECOND + token]}
        there = {key: tensor for key, tensor in named.items() if tensor is not None}
        write_tensors(path, there, metadata)
    return embedding_paths(embeddings, out)


def embedding_paths(embeddings: Mapping[str, LazyTensor], out: Path) -> list[Path]:
    """Return a path for each token, named by adapter and token: `style.safetensors` -> `style-s1.safetensors`.

    If two tokens differ only in characters that file names cannot hold, a number is appended.
    """
    paths: list[Path] = []
    for token in _by_token(embeddings):
        name = f"{out.stem}-{UNFIT.sub('', token).strip('.') or 'token'}"
        path, number = out.with_name(f"{name}.safetensors"), 2
        while path.name.casefold() in {other.name.casefold() for other in paths}:
            path, number = out.with_name(f"{name}-{number}.safetensors"), number + 1
        paths.append(path)
    return paths


def _by_token(embeddings: Mapping[str, LazyTensor]) -> dict[str, dict[str, LazyTensor]]:
    tokens: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in embeddings.items():
        tokens.setdefault(name.removeprefix(SECOND), {})[name] = tensor
    return tokens


@dataclass(frozen=True, eq=False)
class Embedding:
    """A token with vectors of its own.

    Attributes:
        word: the token as written in prompts.
        vectors: `"te"`, and `"te2"` for SDXL -> float32 `(vectors, width)`.
        source: the path of the file, for messages.

    """

    word: str
    vectors: Mapping[str, NDArray[np.float32]]
    source: str = ""


def read_embedding(path: str | Path, word: str | None = None) -> Embedding:
    """Return the embedding of a file, under the given word, else the word in the file, else the file's name.

    `.pt` and `.bin` files are read as `bwlab.formats.pickles` does; files that need more than tensors are refused.

    Raises:
        BwlabError: the file is missing or broken, holds something else, or holds NaN.

    """
    from bwlab.formats.contents import PICKLE_SUFFIXES
    from bwlab.formats.pickles import open_pickle
    from bwlab.formats.safetensors import open_adapter_file

    path = Path(path)
    file = open_pickle(path) if path.suffix.lower() in PICKLE_SUFFIXES else open_adapter_file(path)
    keys = [key for key in file.entries if key != COUNTER]
    if set(keys) <= ENCODERS.keys() and keys:
        parts = {ENCODERS[key]: _rows(file, key) for key in ENCODERS if key in keys}
        counts = {len(rows) for rows in parts.values()}
        if len(counts) > 1:
            raise _bad(path, f"clip_l and clip_g hold {' and '.join(map(str, sorted(counts)))} vectors")
        return Embedding(word or file.metadata.get("name") or path.stem, parts, str(path))
    if len(keys) != 1:
        raise _bad(path, f"it holds {len(keys)} tensors instead of one, or clip_l and clip_g")
    own = file.metadata.get("name") or path.stem if keys[0] in NAMELESS_KEYS else keys[0]
    return Embedding(word or own, {"te": _rows(file, keys[0])}, str(path))


def embeddings_of(tensors: Mapping[str, LazyTensor]) -> list[Embedding]:
    """Return the embeddings of an adapter file, given token -> tensor; `te2:` marks tokens of the second encoder."""
    words = dict.fromkeys(name.removeprefix(SECOND) for name in tensors)
    embeddings = []
    for word in words:
        named = {"te": tensors.get(word), "te2": tensors.get(SECOND + word)}
        vectors = {encoder: _matrix(tensor) for encoder, tensor in named.items() if tensor is not None}
        source = next(tensor.source for tensor in named.values() if tensor is not None)
        embeddings.append(Embedding(word, vectors, source))
    return embeddings


def _rows(file: AdapterFile, key: str) -> NDArray[np.float32]:
    rows = _matrix(file.tensor(key))
    if rows.ndim != 2 or not rows.size:
        raise _bad(file.path, f"{key} has the shape {tuple(file.entries[key].shape)}, not (vectors, width)")
    return rows


def _matrix(tensor: LazyTensor) -> NDArray[np.float32]:
    import numpy as np

    numbers: NDArray[np.float32] = tensor.numbers(np.float32).astype(np.float32, copy=False)
    return numbers[None] if numbers.ndim == 1 else numbers


def _bad(path: Path, found: str) -> BwlabError:
    return BwlabError(f"reading embedding {path}", found, USE_EMBEDDING_FILE)


READERS = (
    FormatReader(
        "embedding", "textual inversion: embeddings of tokens and nothing else", recognises, read, fallback=True
    ),
)
WRITERS: tuple[FormatWriter, ...] = ()
