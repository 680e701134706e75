"""Writes token embeddings to files of their own, beside an adapter: inside its file they would keep diffusers out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bwlab.formats.tensor_file import write_tensors
from bwlab.formats.tensors import LazyTensor

SECOND = "te2:"
UNFIT = re.compile(r"[^\w.-]+")  # for names of files


def write_embeddings(embeddings: Mapping[str, LazyTensor], out: Path) -> list[Path]:
    """Writes each token's file, beside the adapter `out`, and returns their paths.

    Of Stable Diffusion 1.x and 2.x the key is the token, as diffusers has it; of SDXL `clip_l` and `clip_g` hold the
    embeddings for the two encoders, and the metadata the token.
    """
    for token, tensors in _by_token(embeddings).items():
        metadata, named = {"format": "pt"}, {token: tensors.get(token)}
        if SECOND + token in tensors:
            metadata["name"] = token
            named = {"clip_l": tensors.get(token), "clip_g": tensors[SECOND + token]}
        there = {key: tensor for key, tensor in named.items() if tensor is not None}
        write_tensors(_file(token, out), there, metadata)
    return embedding_paths(embeddings, out)


def embedding_paths(embeddings: Mapping[str, LazyTensor], out: Path) -> list[Path]:
    """The files, one for each token and named by adapter and token: `style.safetensors` -> `style-s1.safetensors`."""
    return [_file(token, out) for token in _by_token(embeddings)]


def _by_token(embeddings: Mapping[str, LazyTensor]) -> dict[str, dict[str, LazyTensor]]:
    tokens: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in embeddings.items():
        tokens.setdefault(name.removeprefix(SECOND), {})[name] = tensor
    return tokens


def _file(token: str, out: Path) -> Path:
    return out.with_name(f"{out.stem}-{UNFIT.sub('', token) or 'token'}.safetensors")
