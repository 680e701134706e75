"""Weights in prompts, such as `"a (red)1.4 fox, hat--"`, read by the library compel, or as A1111 writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.base.conditioning import encode_texts
from bwlab.base.families.family import PromptEmbeddings
from bwlab.base.models import text_encoders
from bwlab.errors import BwlabError
from bwlab.generation.chunks import encode_chunks
from bwlab.generation.job import COMPEL

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


def check_prompts(prompts: Iterable[str]) -> None:
    """Raise `BwlabError` for `.and()` and `.swap()`, which compel reads but a context of fixed length cannot hold."""
    from compel import Compel

    for prompt in prompts:
        _require_plain(prompt, Compel.parse_prompt_string(prompt))


def weighted_context(pipe: Pipeline, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Return `context` `(batch, tokens, width)` of prompts with weights, and SDXL's `pooled` `(batch, width)`.

    Compel weights the embeddings of words for cross-attention; the pooled text comes from the prompt without weights.
    Prompts are cut at the tokenizer's length.

    Raises:
        BwlabError: a prompt uses `.and()` or `.swap()`.

    """
    from compel import Compel, ReturnedEmbeddingsType

    check_prompts(prompts)
    encoders = text_encoders(pipe)
    kind = (
        ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED
        if len(encoders) == 1
        else ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
    )
    tokenizers = (pipe.tokenizer, getattr(pipe, "tokenizer_2", None))
    contexts = [
        Compel(tokenizer=tokenizer, text_encoder=encoder, returned_embeddings_type=kind)(
            [pipe.maybe_convert_prompt(prompt, tokenizer) for prompt in prompts]
        )
        for tokenizer, encoder in zip(tokenizers, encoders, strict=False)
    ]
    context = {"context": torch.cat(contexts, dim=-1)}
    pooled = encode_texts(pipe, [without_weights(prompt) for prompt in prompts]).pooled if len(encoders) == 2 else None
    return context if pooled is None else {**context, "pooled": pooled}


def chunked_context(pipe: Pipeline, prompts: Sequence[str], weighting: str | None, count: int) -> dict[str, Tensor]:
    """Return the same as `weighted_context` for prompts in `count` chunks, see `bwlab.base.text_chunks`."""
    text = encode_chunks(pipe, prompts, weighting, count)
    return {"context": text.context} if text.pooled is None else {"context": text.context, "pooled": text.pooled}


def pipeline_embeddings(
    pipe: Pipeline,
    prompts: Sequence[str],
    negative: str,
    guided: bool,
    contexts: Callable[[Sequence[str]], dict[str, Tensor]],
) -> PromptEmbeddings:
    """Return the arguments that replace prompts in a pipeline, by name; with guidance also for the negative prompt.

    `contexts` encodes prompts, as `weighted_context` does.
    """
    positive = contexts(prompts)
    embeddings: PromptEmbeddings = {"prompt_embeds": positive["context"]}
    other: dict[str, Tensor] = {}
    if guided:
        zeros = not negative and "pooled" in positive and pipe.config.force_zeros_for_empty_prompt
        other = (
            {name: torch.zeros_like(value) for name, value in positive.items()}
            if zeros
            else contexts([negative] * len(prompts))
        )
    embeddings["negative_prompt_embeds"] = other.get("context")
    if "pooled" in positive:
        embeddings["pooled_prompt_embeds"] = positive["pooled"]
        embeddings["negative_pooled_prompt_embeds"] = other.get("pooled")
    return embeddings


def without_weights(prompt: str) -> str:
    """Return the words of a prompt in compel's grammar."""
    from compel import Compel

    return " ".join(_texts(Compel.parse_prompt_string(prompt)))


def _require_plain(prompt: str, conjunction: Any) -> None:
    asked, fix = f"prompt {prompt!r} with --weighting {COMPEL}", "Use weights and .blend() only"
    if len(conjunction.prompts) > 1:
        raise BwlabError(asked, ".and() makes a text of another length", fix)
    if any(getattr(prompt, "wants_cross_attention_control", False) for prompt in conjunction.prompts):
        raise BwlabError(asked, ".swap() needs another sampling loop", fix)


def _texts(part: Any) -> Iterator[str]:
    """Return the words of a parsed prompt; for a blend, the words of all its prompts."""
    if hasattr(part, "text"):
        yield part.text
    for inner in getattr(part, "prompts", None) or getattr(part, "children", None) or ():
        yield from _texts(inner)
