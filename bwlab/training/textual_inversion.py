"""Textual inversion (Gal et al., arXiv 2208.01618): new words whose embeddings are trained.

The words are added to a copy of each tokenizer, and the embedding layer of each text encoder is replaced by one with
rows for them, for a `with` block only: the pipeline's own tokenizers and layers are never changed.
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
from torch import Tensor, nn
from torch.nn import functional

from bwlab.base.models import TOKENIZERS, text_encoders, tokenizers
from bwlab.errors import BwlabError
from bwlab.files import write_atomically
from bwlab.formats.torch_tensors import file_bytes
from bwlab.generation.embeddings import require_words_read, text_ends_at
from bwlab.training.config import TokensConfig

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

DEFAULT_INITIAL = "*"  # the initial text of A1111
# A word names a file; and in prompts these characters separate words or have meanings of their own.
FORBIDDEN = frozenset("/\\,()[]:|\0")


class ExtendedEmbedding(nn.Module):
    """An embedding layer with further rows for new words; only those are trained.

    Args:
        base: the frozen layer, `(tokens, width)`.
        rows: embeddings of the new words, `(words * vectors, width)`.
        first: token of the first row; the others follow. Rows of `base` from this token on are not used.

    """

    def __init__(self, base: nn.Embedding, rows: nn.Parameter, first: int) -> None:
        super().__init__()
        self.rows = rows
        self._base, self._first = (base,), first  # in a tuple, so that it is no submodule

    @property
    def weight(self) -> Tensor:
        """The weights of the frozen layer; transformers reads their type and device."""
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
        names: the words, as captions write them.
        vectors: number of embeddings per word.
        rows: for each text encoder, the embeddings `(words * vectors, width)`.

    """

    names: tuple[str, ...]
    vectors: int
    rows: tuple[nn.Parameter, ...]

    def tokens(self) -> list[str]:
        """Return the tokens, `vectors` for each word, named as diffusers names the tokens of a word with several."""
        return [f"{name}_{part}" if part else name for name in self.names for part in range(self.vectors)]

    @contextmanager
    def attached(self, pipe: Pipeline) -> Iterator[None]:
        """Add the words to the pipeline for a `with` block; afterwards the pipeline is what it was."""
        with ExitStack() as held:
            for name, encoder, rows in zip(TOKENIZERS, text_encoders(pipe), self.rows, strict=False):
                held.enter_context(self._in_tokenizer(pipe, name))
                tokenizer = getattr(pipe, name)
                first = tokenizer.convert_tokens_to_ids(self.tokens()[0])
                held.enter_context(extended_embedding(encoder, rows, first))
                held.enter_context(text_ends_at(encoder, tokenizer.eos_token_id))
            yield

    def save(self, folder: Path, prefix: str = "") -> list[Path]:
        """Write one file for each word into a folder, named after the word, and return their paths.

        A file holds one tensor named after the word for bases with one text encoder, `clip_l` and `clip_g` for SDXL:
        A1111, ComfyUI and diffusers' `load_textual_inversion` read both forms.
        """
        paths = []
        for index, name in enumerate(self.names):
            word = slice(index * self.vectors, (index + 1) * self.vectors)
            keys = (name,) if len(self.rows) == 1 else ("clip_l", "clip_g")
            parts = (rows[word].float() for rows in self.rows)
            path = folder / f"{prefix}{name}.safetensors"
            write_atomically(path, file_bytes(dict(zip(keys, parts, strict=True))))
            paths.append(path)
        return paths

    @contextmanager
    def _in_tokenizer(self, pipe: Pipeline, name: str) -> Iterator[None]:
        """Replace the pipeline's tokenizer `name` for a `with` block by a copy that has the words."""
        from tokenizers import AddedToken

        tokenizer = getattr(pipe, name)
        extended = copy.deepcopy(tokenizer)
        extended.add_tokens([AddedToken(token, single_word=True, normalized=False) for token in self.tokens()])
        setattr(pipe, name, extended)
        try:
            yield
        finally:
            setattr(pipe, name, tokenizer)


@contextmanager
def extended_embedding(encoder: Any, rows: nn.Parameter, first: int) -> Iterator[None]:
    """Give a text encoder rows for the tokens from `first` on, for a `with` block."""
    layer = encoder.get_input_embeddings()
    encoder.set_input_embeddings(ExtendedEmbedding(layer, rows, first))
    try:
        yield
    finally:
        encoder.set_input_embeddings(layer)


def new_token_embeddings(config: TokensConfig, pipe: Pipeline) -> TokenEmbeddings | None:
    """Return the words of the settings with their initial embeddings, in float32 on the CPU; None without words.

    Raises:
        BwlabError: a text cannot be a new word, or the initial text has no tokens.

    """
    if not config.words:
        if config.alone:
            raise BwlabError("tokens.alone = true", "no words are given", "Name them in tokens.words")
        return None
    require_words_read(pipe, f"tokens.words = {', '.join(config.words)}")
    encoders: list[Any] = list(text_encoders(pipe))
    for word in config.words:
        check_new_word(word, config.words, tokenizers(pipe)[0].get_vocab().keys())
    rows = [
        initial_rows(config, tokenizer, encoder.get_input_embeddings().weight)
        for tokenizer, encoder in zip(tokenizers(pipe), encoders, strict=True)
    ]
    return TokenEmbeddings(config.words, config.vectors, tuple(map(nn.Parameter, rows)))


def check_new_word(word: str, words: Sequence[str], vocabulary: object) -> None:
    """Raise BwlabError unless a text can be a new word beside the others."""
    asked, fix = f"tokens.words, {word!r}", "Choose another, such as <fox>"
    bad = sorted({character for character in word if character.isspace()} | FORBIDDEN & set(word))
    if not word or bad or word.startswith("."):
        reason = f"it holds {bad[0]!r}" if bad else "it starts with a dot" if word else "it is empty"
        raise BwlabError(asked, reason, fix)
    if word != word.lower():
        raise BwlabError(asked, "text encoders read lower case only", f"Write {word.lower()}")
    if word in vocabulary or f"{word}</w>" in vocabulary:  # type: ignore[operator]
        raise BwlabError(asked, "the base knows that word already", fix)
    # diffusers expands a word with several embeddings by replacing text, which would change a longer word too.
    containing = [other for other in words if word in other]
    if len(containing) > 1:
        longer = containing[1] if containing[0] == word else containing[0]
        raise BwlabError(asked, f"it is part of {longer!r}", fix)


def initial_rows(config: TokensConfig, tokenizer: object, weight: Tensor) -> Tensor:
    """Return the initial embeddings `(words * vectors, width)`.

    Each word gets the embeddings of the initial text's tokens, repeated or cut to the number of its embeddings.
    """
    text = config.initial or DEFAULT_INITIAL
    tokens = tokenizer.encode(text, add_special_tokens=False)  # type: ignore[attr-defined]
    if not tokens:
        raise BwlabError(f"tokens.initial = {text!r}", "the tokenizer makes no tokens of it", "Give a common word")
    repeated = [tokens[part % len(tokens)] for part in range(config.vectors)]
    return weight.detach()[repeated * len(config.words)].float().cpu().clone()


def require_used(token_embeddings: TokenEmbeddings, captions: Sequence[str]) -> None:
    """Raise BwlabError if a word is in no caption: its embeddings would not be trained."""
    for name in token_embeddings.names:
        as_word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        if not any(as_word.search(caption) for caption in captions):
            raise BwlabError(f"tokens.words, {name!r}", "it is in no caption", "Write it into the captions")
