"""Texts longer than the text encoder reads: their tokens in chunks, encoded one by one and joined.

The AUTOMATIC1111 web UI (modules/sd_hijack_clip.py) and kohya's sd-scripts (library/train_util.py) do the same with
chunks of 75 tokens between a begin and an end. As in the web UI, a chunk ends after a comma if one stands among its
last 20 tokens, a weight multiplies the embeddings of its tokens, and the mean of the embeddings is restored after that
(here of each text and chunk, so that an image does not depend on the others of its batch). SDXL's pooled text is that
of the first chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.base.conditioning import encode_texts, layers_skipped
from bwlab.base.families.family import TextBatch
from bwlab.base.models import family_of, text_encoders, tokenizers

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

COMMA_REACH = 20
COMMA = ",</w>"
LONG_TEXT = "sequence-length-is-longer-than-the-specified-maximum"  # warned of once by transformers
LEAST_MEAN = 0.01  # in standard deviations; the ratio of smaller means says nothing, and they are not restored


@dataclass(frozen=True)
class Chunk:
    """The tokens of a chunk, without its begin and end, and the weight of each."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class TextReading:
    """How captions are read in training.

    Attributes:
        clip_skip: the layer of the text encoder that is read, counted from the last one, which is 1.
        chunks: number of chunks that every caption is read in, 1 or more; the rest of a caption is cut, and short
            captions are filled up with empty chunks, as in kohya's sd-scripts.

    """

    clip_skip: int = 1
    chunks: int = 1

    def encode(self, pipe: Pipeline, captions: Sequence[str]) -> TextBatch:
        """Return the captions' embeddings; gradients flow where the caller lets them."""
        if self.chunks == 1 or not family_of(pipe).reads_chunks:
            return encode_texts(pipe, captions, self.clip_skip)
        rows = [
            [_chunks(pipe, tokenizer, caption)[: self.chunks] for caption in captions] for tokenizer in tokenizers(pipe)
        ]
        with layers_skipped(pipe, self.clip_skip):
            return encode_rows(pipe, rows, self.chunks)

    def cuts(self, pipe: Pipeline, caption: str) -> bool:
        """Return whether a caption is longer than what is read of it."""
        if not family_of(pipe).reads_chunks:
            return unread_tokens(pipe, caption) > 0
        return any(len(_chunks(pipe, tokenizer, caption)) > self.chunks for tokenizer in tokenizers(pipe))

    def cache_key(self) -> tuple[str, ...]:
        """Return what distinguishes embeddings that are read in this way in a cache."""
        skip = () if self.clip_skip == 1 else (f"clip_skip={self.clip_skip}",)
        return skip if self.chunks == 1 else (*skip, f"chunks={self.chunks}")


def _chunks(pipe: Pipeline, tokenizer: Any, caption: str) -> list[Chunk]:
    """Return all chunks of a caption, without weights."""
    return cut(tokens_of(pipe, tokenizer, [(caption, 1.0)]), tokenizer)


def chunk_size(pipe: Pipeline) -> int:
    """Return the number of tokens that the text encoder reads at once, without begin and end: 75 with CLIP."""
    return int(tokenizers(pipe)[0].model_max_length) - 2 if tokenizers(pipe) else 0


def tokens_of(pipe: Pipeline, tokenizer: Any, parts: Iterable[tuple[str, float]]) -> Chunk:
    """Return all tokens of a text in weighted parts; words with several vectors stand for as many tokens."""
    tokens: list[int] = []
    weights: list[float] = []
    convert = getattr(pipe, "maybe_convert_prompt", None)  # of pipelines that know words of several vectors
    tokenizer.deprecation_warnings[LONG_TEXT] = True
    for text, weight in parts:
        converted = convert(text, tokenizer) if convert else text
        ids = tokenizer(converted, add_special_tokens=False).input_ids
        tokens += ids
        weights += [weight] * len(ids)
    return Chunk(tuple(tokens), tuple(weights))


def unread_tokens(pipe: Pipeline, text: str) -> int:
    """Return how many tokens of a text the base does not read, where its family reads no chunks."""
    most = family_of(pipe).prompt_tokens(pipe)
    if most is None:
        return 0
    return max(0, len(tokens_of(pipe, tokenizers(pipe)[-1], [(text, 1.0)]).tokens) - most)


def cut(text: Chunk, tokenizer: Any) -> list[Chunk]:
    """Return the chunks of all tokens of a text, at least one."""
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


def encode_rows(pipe: Pipeline, rows: Sequence[Sequence[Sequence[Chunk]]], count: int) -> TextBatch:
    """Return the embeddings of texts, `count` chunks each; texts with fewer chunks are filled up with empty ones.

    All texts go through an encoder together, one chunk after the other, so adapters with a scale for each text act.

    Args:
        pipe: the base.
        rows: for each text encoder, the chunks of each text.
        count: number of chunks, at least as many as any text has.

    """
    encoders = text_encoders(pipe)
    double = len(encoders) == 2
    contexts: list[Tensor] = []
    pooled: Tensor | None = None
    for tokenizer, encoder, texts in zip(tokenizers(pipe), encoders, rows, strict=True):
        states: list[Tensor] = []
        for place in range(count):
            chunks = [text[place] if place < len(text) else Chunk() for text in texts]
            output = encoder(_ids(chunks, tokenizer).to(next(encoder.parameters()).device), output_hidden_states=double)
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
