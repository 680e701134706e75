"""Textual-inversion embeddings, whose words a pipeline knows inside a `with` block."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bwlab.base.models import family_of, text_encoders, tokenizers
from bwlab.errors import BwlabError
from bwlab.formats.dialects.textual_inversion import Embedding

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

ENCODERS = ("te", "te2")
OLD_END = 2  # the end-of-text token in old CLIP configs; transformers then takes the highest token as the end


@contextmanager
def attach_words(pipe: Pipeline, embeddings: Sequence[Embedding]) -> Iterator[None]:
    """Let prompts use the embeddings' words inside the `with` block; restore tokenizers and text encoders after it.

    A word is recognised as written and in lower case. A word with several vectors stands for as many tokens, `word`,
    `word_1` ..., which diffusers' pipelines insert in its place (`maybe_convert_prompt`). Tokenizer and text encoder
    stay the same objects, so all pipelines that share them know the words.

    Raises:
        BwlabError: an embedding is for another architecture, or a word is not distinct from others.

    """
    if not embeddings:
        yield
        return
    encoders: list[Any] = list(text_encoders(pipe))
    check_words(pipe, embeddings)
    tokens = [token for embedding in embeddings for token in tokens_of(embedding)]
    with ExitStack() as stack:
        for name, encoder, tokenizer in zip(ENCODERS, encoders, tokenizers(pipe), strict=False):
            rows = [torch.from_numpy(each.vectors[name]).repeat(len(_spellings(each.word)), 1) for each in embeddings]
            stack.enter_context(_known(tokenizer, tokens))
            places = tokenizer.convert_tokens_to_ids(tokens)
            stack.enter_context(_embedded(encoder, torch.cat(rows), places, tokenizer.eos_token_id))
        yield


def tokens_of(embedding: Embedding) -> list[str]:
    """Return the tokens of a word as diffusers names them, for each spelling of the word."""
    count = len(embedding.vectors["te"])
    return [
        f"{spelling}_{part}" if part else spelling for spelling in _spellings(embedding.word) for part in range(count)
    ]


def check_words(pipe: Pipeline, embeddings: Sequence[Embedding]) -> None:
    """Raise `BwlabError` unless the embeddings fit a pipeline's text encoders and their words are distinct."""
    require_words_read(pipe, f"embedding {embeddings[0].source or embeddings[0].word}")
    encoders: list[Any] = list(text_encoders(pipe))
    wanted = {
        name: int(encoder.get_input_embeddings().weight.shape[1])
        for name, encoder in zip(ENCODERS, encoders, strict=False)
    }
    vocabulary = pipe.tokenizer.get_vocab()
    for embedding in embeddings:
        asked = f"embedding {embedding.source or embedding.word}"
        stored = {name: int(rows.shape[1]) for name, rows in embedding.vectors.items()}
        if stored != wanted:
            widths = [" + ".join(map(str, sizes.values())) for sizes in (stored, wanted)]
            raise BwlabError(
                asked,
                f"its vectors are {widths[0]} wide, and this base's text embeddings {widths[1]}",
                "Give an embedding that was made for this base's architecture",
            )
        _check_word(embedding.word, asked, [other.word for other in embeddings], vocabulary, tokens_of(embedding))


def require_words_read(pipe: Pipeline, asked: str) -> None:
    """Raise `BwlabError` unless prompts for a base may use new words."""
    family = family_of(pipe)
    if not family.reads_chunks:
        raise BwlabError(asked, f"bwlab knows no new words for {family.label}", "Leave it out")


def _check_word(word: str, asked: str, words: Sequence[str], vocabulary: Any, tokens: Sequence[str]) -> None:
    fix = "Choose another word with --embedding FILE=word ('bwlab convert' writes an adapter's words to separate files)"
    if not word or any(character.isspace() or character == "," for character in word):
        raise BwlabError(f"{asked}, word {word!r}", "a word must not contain white space or commas", fix)
    known = [token for token in tokens if token in vocabulary or f"{token}</w>" in vocabulary]
    if known:
        raise BwlabError(f"{asked}, word {word!r}", "the tokenizer of the base already has this word", fix)
    # diffusers expands words with several vectors by replacing text, which would change the longer word too.
    near = [other for other in words if word.lower() in other.lower()]
    if len(near) > 1:
        other = next((other for other in near if other != word), word)
        raise BwlabError(f"{asked}, word {word!r}", f"it is given twice, or part of {other!r}", fix)


def _spellings(word: str) -> list[str]:
    return list(dict.fromkeys((word, word.lower())))


@contextmanager
def _known(tokenizer: Any, tokens: Sequence[str]) -> Iterator[None]:
    """Add new tokens to the tokenizer inside the block: the same object takes the state of a copy that has them."""
    from tokenizers import AddedToken

    extended = copy.deepcopy(tokenizer)
    # Not normalised: otherwise the tokenizer would return a word in capitals in lower case, which diffusers would miss.
    extended.add_tokens([AddedToken(token, single_word=True, normalized=False) for token in tokens])
    state = tokenizer.__dict__
    tokenizer.__dict__ = extended.__dict__
    try:
        yield
    finally:
        tokenizer.__dict__ = state


@contextmanager
def text_ends_at(encoder: Any, end: int) -> Iterator[None]:
    """Make the text encoder treat the token `end` as the end of a text inside the block, whatever its config says."""
    models = [module for module in encoder.modules() if getattr(module, "eos_token_id", None) == OLD_END]
    try:
        for model in models:
            model.eos_token_id = end
        yield
    finally:
        for model in models:
            model.eos_token_id = OLD_END


@contextmanager
def _embedded(encoder: Any, rows: Tensor, places: Sequence[int], end: int) -> Iterator[None]:
    """Give the text encoder these rows for new tokens inside the block; `end` is the token that ends a text."""
    layer: nn.Embedding = encoder.get_input_embeddings()
    own = layer.weight
    size = max(len(own), max(places) + 1)  # some encoders have more rows than their tokenizer has tokens
    longer = torch.cat([own.detach(), own.new_zeros(size - len(own), own.shape[1])])
    longer[list(places)] = rows.to(own)
    with text_ends_at(encoder, end):
        try:
            layer.weight = nn.Parameter(longer, requires_grad=False)
            yield
        finally:
            layer.weight = own
