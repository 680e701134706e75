"""Equal tokens of a text, computed once: the zeros that Stable Diffusion 3 reads where there is no T5.

diffusers' pipeline gives the transformer 256 tokens of zeros in place of the T5's. Text has no positions in this
transformer, so tokens that start equal are equal in every block. One of them, weighted in each softmax by their number
(the logarithm of the number is added to its score), gives what all of them give, with a fraction of the work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT = "encoder_hidden_states"


def compute_equal_tokens_once(transformer: Any) -> None:
    """Let an SD3Transformer2DModel compute the zeros at the end of its text once, in every call; see above.

    Adapters and other hooks on its layers act as before. Texts without zeros are computed as before.
    """
    folded = _Folded()
    for block in transformer.transformer_blocks:
        block.attn.set_processor(WeightedLastToken(folded))
    transformer.register_forward_pre_hook(folded.fold, with_kwargs=True)


class _Folded:
    """How many tokens the last one stands for, in the call that is running."""

    def __init__(self) -> None:
        self.count = 1

    def fold(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Cut all but one of the zeros at the end of the text, and note their number."""
        context = kwargs.get(CONTEXT, args[1] if len(args) > 1 else None)
        zeros = zeros_at_end(context) if isinstance(context, Tensor) and context.dim() == 3 else 0
        self.count = max(1, zeros)
        if self.count == 1:
            return None
        assert isinstance(context, Tensor)
        kept = context[:, : context.shape[1] - self.count + 1]
        if CONTEXT in kwargs:
            return args, {**kwargs, CONTEXT: kept}
        return (args[0], kept, *args[2:]), dict(kwargs)


def zeros_at_end(context: Tensor) -> int:
    """Return how many tokens at the end of texts `(batch, tokens, width)` are zeros in every text."""
    nonzero = context.detach().ne(0).any(dim=2).any(dim=0).nonzero()
    return context.shape[1] - (int(nonzero[-1]) + 1 if len(nonzero) else 0)


class WeightedLastToken:
    """The joint attention of SD3Transformer2DModel, with a last token of the text that stands for several equal ones.

    Args:
        folded: holds the number of tokens that it stands for.

    """

    def __init__(self, folded: _Folded) -> None:
        self._folded = folded

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        **_: object,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs `(batch, tokens, width)` of image and text; None for the text in the last block."""
        images = hidden_states.shape[1]
        query = _joined(attn, attn.to_q(hidden_states), attn.add_q_proj(encoder_hidden_states), "q")
        key = _joined(attn, attn.to_k(hidden_states), attn.add_k_proj(encoder_hidden_states), "k")
        value = _joined(attn, attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states), "")
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=self._mask(query))
        mixed = mixed.transpose(1, 2).flatten(2)
        image = attn.to_out[1](attn.to_out[0](mixed[:, :images]))
        return image, None if attn.context_pre_only else attn.to_add_out(mixed[:, images:])

    def _mask(self, query: Tensor) -> Tensor | None:
        """Return what is added to the scores, `(tokens, tokens)`; None if the last token stands for itself."""
        if self._folded.count == 1:
            return None
        tokens = query.shape[-2]
        added = query.new_zeros(tokens)
        added[-1] = math.log(self._folded.count)
        return added.expand(tokens, tokens)


def _joined(attn: Any, image: Tensor, text: Tensor, norm: str) -> Tensor:
    """Return the heads `(batch, heads, tokens, width)` of image and text, normalised where the model does that."""
    parts = [part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (image, text)]
    norms = (getattr(attn, f"norm_{norm}", None), getattr(attn, f"norm_added_{norm}", None)) if norm else (None, None)
    return torch.cat([part if scale is None else scale(part) for part, scale in zip(parts, norms, strict=True)], 2)
