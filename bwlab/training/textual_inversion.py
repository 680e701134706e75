"""Textual inversion (Gal et al., arXiv 2208.01618): new words whose embeddings are trained.

The words are put into a copy of each tokenizer, and the embedding layer of each text encoder is replaced by one that
knows their rows too, only inside a `with` block: the pipeline's own tokenizers and layers are never touched.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from bwlab.base.conditioning import text_encoders
from bwlab.errors import BwlabError
from bwlab.files import write_atomically
from bwlab.generation.embeddings import text_ends_at
from bwlab.training.config import TokensConfig

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

TOKENIZERS = ("tokenizer", "tokenizer_2")
DEFAULT_START = "*"  # what A1111 starts new embeddings from
RESERVED = ("adapter",)  # names of files in a run's folder
# A word is a file's name, and in prompts these have meanings of their own or part words.
FORBIDDEN = frozenset("/\\,()[]:|\0")


class ExtendedEmbedding(nn.Module):
    """The embedding layer of a text encoder with rows for new words, of which only those are trained.

    Args:
        base: the frozen layer, `(tokens, width)`.
        rows: of the new words, `(words * vectors, width)`.
        first: token of the first row; the others follow. Rows that `base` may have from there on mean nothing.

    """

    def __init__(self, base: nn.Embedding, rows: nn.Parameter, first: int) -> None:
        super().__init__()
        self.rows = rows
        self._base, self._first = (base,), first  # in a tuple: its weights are not this module's

    @property
    def weight(self) -> Tensor:
        """The weights of the frozen layer, whose kind and device transformers asks for."""
        return self._base[0].weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings `(..., width)` of tokens `(...)`."""
        known = functional.embedding(tokens.clamp(max=self._first - 1), self.weight)
        new = functional.embedding((tokens - self._first).clamp(min=0), self.rows)
        return torch.where((tokens >= self._first)[..., None], new.to(known.dtype), known)


@dataclass(frozen=True, eq=False)
class TokenEmbeddings:
    """New words and their embeddings.

    Attributes:
        names: as captions write them.
        vectors: embeddings a word.
        rows: for each text encoder `(words * vectors, width)`.

    """

    names: tuple[str, ...]
    vectors: int
    rows: tuple[nn.Parameter, ...]

    def tokens(self) -> list[str]:
        """Return the tokens, `vectors` for each word, named as diffusers names those of a word with several."""
        return [f"{name}_{part}" if part else name for name in self.names for part in range(self.vectors)]

    @contextmanager
    def attached(self, pipe: Pipeline) -> Iterator[None]:
        """Return the pipeline knows the words inside the `with` block, and is after it what it was."""
        with ExitStack() as held:
            for name, encoder, rows in zip(TOKENIZERS, text_encoders(pipe), self.rows, strict=False):
                held.enter_context(self._known(pipe, name))
                tokenizer = getattr(pipe, name)
                first = tokenizer.convert_tokens_to_ids(self.tokens()[0])
                held.enter_context(embedded(encoder, rows, first))
                held.enter_context(text_ends_at(encoder, tokenizer.eos_token_id))
            yield

    def save(self, place: Path, prefix: str = "") -> list[Path]:
        """Write one file for each word into the folder `place`, named by the word, and return their paths.

        One tensor under the word for bases with one text encoder, `clip_l` and `clip_g` for SDXL: A1111, ComfyUI
        and diffusers' `load_textual_inversion` read both.
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

    @contextmanager
    def _known(self, pipe: Pipeline, name: str) -> Iterator[None]:
        """Return the pipeline has, inside the block, a copy of its tokenizer `name` that knows the words."""
        from tokenizers import AddedToken

        own = getattr(pipe, name)
        extended = copy.deepcopy(own)
        extended.add_tokens([AddedToken(token, single_word=True, normalized=False) for token in self.tokens()])
        setattr(pipe, name, extended)
        try:
            yield
        finally:
            setattr(pipe, name, own)


@contextmanager
def embedded(encoder: Any, rows: nn.Parameter, first: int) -> Iterator[None]:
    """Return the text encoder has rows for the tokens from `first` on inside the `with` block."""
    layer = encoder.get_input_embeddings()
    encoder.set_input_embeddings(ExtendedEmbedding(layer, rows, first))
    try:
        yield
    finally:
        encoder.set_input_embeddings(layer)


def new_token_embeddings(config: TokensConfig, pipe: Pipeline) -> TokenEmbeddings | None:
    """Return the words that `config` names, at their start, in float32 on the CPU; None if it names none.

    Raises:
        BwlabError: a word that cannot be one, or an `initial` text without tokens.

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
    return TokenEmbeddings(config.words, config.vectors, tuple(nn.Parameter(start) for start in rows))


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
    """Return the rows `(words * vectors, width)` that all words start from.

    A word's embeddings are those of the initial text's tokens, from the first on and around again.
    """
    text = config.initial or DEFAULT_START
    tokens = tokenizer.encode(text, add_special_tokens=False)  # type: ignore[attr-defined]
    if not tokens:
        raise BwlabError(f"tokens.initial = {text!r}", "the tokenizer makes no tokens of it", "Give a word it knows")
    own = [tokens[part % len(tokens)] for part in range(config.vectors)]
    return weight.detach()[own * len(config.words)].float().cpu().clone()


def require_used(words: TokenEmbeddings, captions: Sequence[str]) -> None:
    """Raise BwlabError if a word stands in no caption: nothing would be learned of it."""
    for name in words.names:
        alone = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        if not any(alone.search(caption) for caption in captions):
            raise BwlabError(f"tokens.words, {name!r}", "it stands in no caption", "Write it into the captions")
