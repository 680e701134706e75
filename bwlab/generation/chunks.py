"""Prompts in chunks, with the weights that their syntax gives, see `bwlab.base.text_chunks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bwlab.base.families.family import TextBatch
from bwlab.base.models import tokenizers
from bwlab.base.text_chunks import Chunk, cut, encode_rows, tokens_of
from bwlab.generation.a1111_syntax import A1111, Segment, parse_weights

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


def segments_of(prompt: str, weighting: str | None) -> tuple[Segment, ...]:
    """Return the weighted parts of a prompt: with `"a1111"` as they are written, otherwise one part of weight 1."""
    return parse_weights(prompt) if weighting == A1111 else (((prompt, 1.0),),)


def chunk_count(pipe: Pipeline, prompt: str, weighting: str | None = None) -> int:
    """Return the number of chunks that a prompt is read in, at least 1."""
    return max(len(chunks_of(pipe, tokenizer, prompt, weighting)) for tokenizer in tokenizers(pipe))


def token_count(pipe: Pipeline, prompt: str, weighting: str | None = None) -> int:
    """Return the number of tokens of a prompt's longest segment."""
    return max(len(tokens_of(pipe, pipe.tokenizer, segment).tokens) for segment in segments_of(prompt, weighting))


def chunks_of(pipe: Pipeline, tokenizer: Any, prompt: str, weighting: str | None) -> list[Chunk]:
    """Return the chunks of a prompt, at least one; a new one begins at each BREAK."""
    chunks: list[Chunk] = []
    segments = segments_of(prompt, weighting)
    for index, segment in enumerate(segments):
        tokens = tokens_of(pipe, tokenizer, segment)
        if tokens.tokens or index < len(segments) - 1 or not chunks:
            chunks += cut(tokens, tokenizer)
    return chunks


def encode_chunks(pipe: Pipeline, prompts: Sequence[str], weighting: str | None, count: int) -> TextBatch:
    """Return the embeddings of prompts, `count` chunks each; prompts with fewer are filled up with empty chunks."""
    rows = [[chunks_of(pipe, tokenizer, prompt, weighting) for prompt in prompts] for tokenizer in tokenizers(pipe)]
    return encode_rows(pipe, rows, count)
