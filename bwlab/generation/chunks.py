"""Prompts longer than the text encoder reads: their tokens in chunks, encoded one by one and joined.

The AUTOMATIC1111 web UI (modules/sd_hijack_clip.py) and kohya's sd-scripts (library/train_util.py) do the same with
chunks of 75 tokens between a begin and an end. As in the web UI, a chunk ends after a comma if one stands among its
last 20 tokens, a weight multiplies the embeddings of its tokens, and the mean of the embeddings is restored after that
(here of each prompt and chunk, so that an image does not depend on the others of its batch). SDXL's pooled text is that
of the first chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.base.conditioning import TextBatch, text_encoders
from bwlab.base.quiet import quiet_libraries
from bwlab.generation.a1111_syntax import A1111, Segment, parse_weights

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

COMMA_REACH = 20
COMMA = ",</w>"
LEAST_MEAN = 0.01  # in standard deviations; the ratio of smaller means says nothing, and they are not restored


@dataclass(frozen=True)
class Chunk:
    """The tokens of a chunk, without its begin and end, and the weight of each."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


def segments_of(prompt: str, weighting: str | None) -> tuple[Segment, ...]:
    """Return the weighted parts of a prompt: with `"a1111"` as they are written, otherwise one part of weight 1."""
    return parse_weights(prompt) if weighting == A1111 else (((prompt, 1.0),),)


def chunk_size(pipe: Pipeline) -> int:
    """Return the number of tokens that the text encoder reads at once, without begin and end: 75 with CLIP."""
    return int(pipe.tokenizer.model_max_length) - 2


def chunk_count(pipe: Pipeline, prompt: str, weighting: str | None = None) -> int:
    """Return the number of chunks that a prompt is read in, at least 1."""
    return max(len(chunks_of(pipe, tokenizer, prompt, weighting)) for tokenizer in tokenizers(pipe))


def token_count(pipe: Pipeline, prompt: str, weighting: str | None = None) -> int:
    """Return the number of tokens of a prompt's longest segment."""
    return max(len(_tokens(pipe, pipe.tokenizer, segment).tokens) for segment in segments_of(prompt, weighting))


def tokenizers(pipe: Pipeline) -> list[Any]:
    """Return the tokenizer of each text encoder."""
    names = ("tokenizer", "tokenizer_2")
    return [getattr(pipe, name) for name in names[: len(text_encoders(pipe))]]


def chunks_of(pipe: Pipeline, tokenizer: Any, prompt: str, weighting: str | None) -> list[Chunk]:
    """Return the chunks of a prompt, at least one; a new one begins at each BREAK."""
    chunks: list[Chunk] = []
    segments = segments_of(prompt, weighting)
    for index, segment in enumerate(segments):
        tokens = _tokens(pipe, tokenizer, segment)
        if tokens.tokens or index < len(segments) - 1 or not chunks:
            chunks += _cut(tokens, tokenizer)
    return chunks


def _tokens(pipe: Pipeline, tokenizer: Any, segment: Segment) -> Chunk:
    """Return all tokens of a segment; words with several vectors stand for as many tokens."""
    tokens: list[int] = []
    weights: list[float] = []
    with quiet_libraries():  # transformers warns of every long text
        for text, weight in segment:
            ids = tokenizer(pipe.maybe_convert_prompt(text, tokenizer), add_special_tokens=False).input_ids
            tokens += ids
            weights += [weight] * len(ids)
    return Chunk(tuple(tokens), tuple(weights))


def _cut(text: Chunk, tokenizer: Any) -> list[Chunk]:
    size = int(tokenizer.model_max_length) - 2
    comma = tokenizer.get_vocab().get(COMMA)
    chunks: list[Chunk] = []
    first = 0
    while len(text.tokens) - first > size:
        end = _end(text.tokens, first, first + size, comma)
        chunks.append(Chunk(text.tokens[first:end], text.weights[first:end]))
        first = end
    return [*chunks, Chunk(text.tokens[first:], text.weights[first:])]


def _end(tokens: Sequence[int], first: int, most: int, comma: int | None) -> int:
    """Return the end of a chunk of at most `most - first` tokens: after its last comma, or where it is full."""
    ends = (end for end in range(most, max(first, most - COMMA_REACH), -1) if tokens[end - 1] == comma)
    return next(ends, most)


def encode_chunks(pipe: Pipeline, prompts: Sequence[str], weighting: str | None, count: int) -> TextBatch:
    """Return the embeddings of prompts, `count` chunks each; prompts with fewer chunks are filled up with empty ones.

    All prompts go through an encoder together, one chunk after the other, so adapters with a scale for each prompt act.
    """
    encoders = text_encoders(pipe)
    double = len(encoders) == 2
    contexts: list[Tensor] = []
    pooled: Tensor | None = None
    for tokenizer, encoder in zip(tokenizers(pipe), encoders, strict=True):
        rows = [chunks_of(pipe, tokenizer, prompt, weighting) for prompt in prompts]
        states: list[Tensor] = []
        for place in range(count):
            chunks = [row[place] if place < len(row) else Chunk() for row in rows]
            output = encoder(_ids(chunks, tokenizer).to(pipe.device), output_hidden_states=double)
            states.append(_weighted(output.hidden_states[-2] if double else output[0], chunks))
            if double and place == 0:
                pooled = output[0]  # in the end that of the second encoder
        contexts.append(torch.cat(states, dim=1))
    return TextBatch(torch.cat(contexts, dim=-1), pooled)


def _ids(chunks: Sequence[Chunk], tokenizer: Any) -> Tensor:
    """Return the token ids `(batch, length)` of chunks with begin, end and padding."""
    length = int(tokenizer.model_max_length)
    rows = [[tokenizer.bos_token_id, *chunk.tokens, tokenizer.eos_token_id] for chunk in chunks]
    return torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])


def _weighted(states: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    """Return the hidden states `(batch, length, width)` times the weights of the tokens, with the mean they had.

    A mean near 0 is not restored, as the quotient would be arbitrary.
    """
    if all(weight == 1 for chunk in chunks for weight in chunk.weights):
        return states
    weights = states.new_ones(states.shape[:2])
    for row, chunk in enumerate(chunks):
        weights[row, 1 : 1 + len(chunk.weights)] = states.new_tensor(chunk.weights)
    scaled = states * weights[..., None]
    before, after = (values.double().mean(dim=(1, 2), keepdim=True) for values in (states, scaled))
    least = LEAST_MEAN * states.double().std(dim=(1, 2), keepdim=True)
    factor = torch.where(torch.minimum(before.abs(), after.abs()) > least, before / after, torch.ones_like(after))
    return scaled * factor.to(scaled.dtype)
