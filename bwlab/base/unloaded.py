"""Text encoders that have left memory: in training, once all texts are encoded."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bwlab.base.models import ENCODERS

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


class UnloadedTextEncoder(nn.Module):
    """Stands in a pipeline for a text encoder that has left memory: it has no weights and encodes nothing.

    Pipelines ask a text encoder for its dtype even where they get embeddings, so this one answers as the encoder did.

    Args:
        encoder: the text encoder, which is not kept.

    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.config = encoder.config
        self.dtype: torch.dtype = encoder.dtype
        self.device: torch.device = encoder.device

    def forward(self, *arguments: object, **named: object) -> Any:
        """Raise `RuntimeError`: whoever unloads text encoders has all texts encoded."""
        raise RuntimeError("the text encoder has left memory")


def unload_text_encoders(pipe: Pipeline) -> None:
    """Take the text encoders of a pipeline out of memory; nothing can be encoded with it afterwards."""
    for name in ENCODERS:
        encoder = getattr(pipe, name, None)
        if encoder is not None:
            setattr(pipe, name, UnloadedTextEncoder(encoder))
    del encoder
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
