"""Textual inversion (Gal et al., arXiv 2208.01618): new words whose embeddings are trained.

The words are put into a copy of each tokenizer, and the embedding layer of each text encoder is replaced by one that
knows their rows too, only inside a ``with`` block: the pipeline's own tokenizers and layers are never touched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from bwlab.conditioning import text_encoders
from bwlab.errors import BwlabError
from bwlab.formats.atomic import write_atomically
from bwlab.training.config import TokensConfig

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline

TOKENIZERS = ("tokenizer", "tokenizer_2")
DEFAULT_START = "*"  # what A1111 starts new embeddings from
RESERVED = ("adapter",)  # names of files in a run's folder
# A word is a file's name, and in prompts these have meanings of their own or part words.
FORBIDDEN = frozenset("/\\,()[]:|\0")


class WordEmbedding(nn.Module):
    """The embedding layer of a text encoder with rows for new words, of which only those are trained.

    Args:
        base: the frozen layer, ``(tokens, width)``.
        rows: of the new words, ``(words * vectors, width)``; their tokens follow those of ``base``.
    """

    def __init__(self, base: nn.Embedding, rows: nn.Parameter) -> None:
        super().__init__()
        self.rows = rows
        self._base, self._known = (base,), base.num_embeddings  # in a tuple: its weights are not this module's

    @property
    def weight(self) -> Tensor:
        """The weights of the frozen layer, whose kind and device transformers asks for."""
        return self._base[0].weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings ``(..., width)`` of tokens ``(...)``."""
        known = functional.embedding(tokens.clamp(max=self._known - 1), self.weight)
        new = functional.embedding((tokens - self._known).clamp(min=0), self.rows)
        return torch.where((tokens >= self._known)[..., None], new.to(known.dtype), known)


@dataclass(frozen=True, eq=False)
class Words:
    """New words and their embeddings.

    Attributes:
        names: as captions write them.
        vectors: embeddings a word.
        rows: for each text encoder ``(words * vectors, width)``.
    """

    names: tuple[str, ...]
    vectors: int
    rows: tuple[nn.Parameter, ...]

    def tokens(self) -> list[str]:
        """Return the tokens, ``vectors`` for each word, named as diffusers names those of a word with several."""
        return [f"{name}_{part}" if part else name for name in self.names for part in range(self.vectors)]

    @contextmanager
    def attached(self, pipe: Pipeline) -> Iterator[None]:
        """The pipeline knows the words inside the ``with`` block, and is after it what it was."""
        names = TOKENIZERS[: len(self.rows)]
        tokenizers = [getattr(pipe, name) for name in names]
        encoders: list[Any] = list(text_encoders(pipe))
        layers = [encoder.get_input_embeddings() for encoder in encoders]
        try:
            for name, tokenizer in zip(names, tokenizers, strict=True):
                setattr(pipe, name, self._extended(tokenizer))
            for encoder, layer, rows in zip(encoders, layers, self.rows, strict=True):
                encoder.set_input_embeddings(WordEmbedding(layer, rows))
            yield
        finally:
            for name, tokenizer in zip(names, tokenizers, strict=True):
                setattr(pipe, name, tokenizer)
            for encoder, layer in zip(encoders, layers, strict=True):
                encoder.set_input_embeddings(layer)

    def save(self, place: Path, prefix: str = "") -> list[Path]:
        """Write one file for each word into the folder ``place``, named by the word, and return their paths.

        One tensor under the word for bases with one text encoder, ``clip_l`` and ``clip_g`` for SDXL: A1111, ComfyUI
        and diffusers' ``load_textual_inversion`` read both.
        """
        paths = []
        for index, name in enumerate(self.names):
            own = slice(index * self.vectors, (index + 1) * self.vectors)
            keys = (name,) if len(self.rows) == 1 else ("clip_l", "clip_g")
            parts = (rows.detach()[own].float().cpu().contiguous() for rows in self.rows)
            path = place / f"{prefix}{name}.safetensors"
            write_atomically(path, save(dict(zip(keys, parts, strict=True))))
            paths.append(path)
        return paths

    def _extended(self, tokenizer: object) -> object:
        extended = copy.deepcopy(tokenizer)
        extended.add_tokens(self.tokens())  # type: ignore[attr-defined]  # of transformers' tokenizers
        return extended


def new_words(config: TokensConfig, pipe: Pipeline) -> Words | None:
    """Return the words that ``config`` names, at their start, in float32 on the CPU; None if it names none.

    Raises:
        BwlabError: a word that cannot be one, or an ``initial`` text without tokens.
    """
    if not config.words:
        if config.alone:
            raise BwlabError("tokens.alone = true", "no words are given", "Name them in tokens.words")
        return None
    encoders: list[Any] = list(text_encoders(pipe))
    tokenizers = [getattr(pipe, name) for name in TOKENIZERS[: len(encoders)]]
    for word in config.words:
        check_word(word, config.words, tokenizers[0].get_vocab().keys())
    rows = [
        start_rows(config, tokenizer, encoder.get_input_embeddings().weight)
        for tokenizer, encoder in zip(tokenizers, encoders, strict=True)
    ]
    return Words(config.words, config.vectors, tuple(nn.Parameter(start) for start in rows))


def check_word(word: str, words: Sequence[str], vocabulary: object) -> None:
    """Raise BwlabError unless a text can be a new word beside the others."""
    asked, fix = f"tokens.words, {word!r}", "Choose another, such as <fox>"
    bad = sorted({character for character in word if character.isspace()} | FORBIDDEN & set(word))
    if not word or bad or word.startswith("."):
        found = f"it holds {bad[0]!r}" if bad else "it starts with a dot" if word else "it is empty"
        raise BwlabError(asked, found, fix)
    if word != word.lower():
        raise BwlabError(asked, "text encoders read lower case only", f"Write {word.lower()}")
    if word in RESERVED or word in vocabulary or f"{word}</w>" in vocabulary:  # type: ignore[operator]
        raise BwlabError(asked, "the base knows that word already", fix)
    # diffusers writes out words of several embeddings by replacing texts, which would change the longer word too.
    near = [other for other in words if word in other]
    if len(near) > 1:
        raise BwlabError(asked, f"it is part of {near[1] if near[0] == word else near[0]!r}", fix)


def start_rows(config: TokensConfig, tokenizer: object, weight: Tensor) -> Tensor:
    """Return the rows ``(words * vectors, width)`` that all words start from.

    A word's embeddings are those of the initial text's tokens, from the first on and around again.
    """
    text = config.initial or DEFAULT_START
    tokens = tokenizer.encode(text, add_special_tokens=False)  # type: ignore[attr-defined]
    if not tokens:
        raise BwlabError(f"tokens.initial = {text!r}", "the tokenizer makes no tokens of it", "Give a word it knows")
    own = [tokens[part % len(tokens)] for part in range(config.vectors)]
    return weight.detach()[own * len(config.words)].float().cpu().clone()


def require_used(words: Words, captions: Sequence[str]) -> None:
    """Raise BwlabError if a word stands in no caption: nothing would be learned of it."""
    for name in words.names:
        if not any(name in caption.lower() for caption in captions):
            raise BwlabError(f"tokens.words, {name!r}", "it stands in no caption", "Write it into the captions")
