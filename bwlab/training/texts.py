"""The embeddings of captions: kept ones where they cannot change, computed at each step where they can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from bwlab.conditioning import TextBatch, encode_texts

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline

Kept = dict[str, TextBatch]


class Texts:
    """Gives a batch of captions as the UNet takes them.

    Args:
        pipe: its text encoders compute what is not kept.
        kept: embeddings by caption, one row each; None computes each batch anew.
        learning: whether gradients flow into the text encoders.
    """

    def __init__(self, pipe: Pipeline, kept: Kept | None, learning: bool) -> None:
        self._pipe, self._kept, self._learning = pipe, kept, learning

    def batch(self, captions: Sequence[str], device: torch.device) -> TextBatch:
        """Return the captions' embeddings on a device.

        Without gradients they are computed in float32, so that a caption that is kept and one that is not are alike.
        """
        if self._kept is not None:
            rows = [self._kept[caption] for caption in captions]
            pooled = [row.pooled for row in rows if row.pooled is not None]
            context = torch.cat([row.context for row in rows]).to(device)
            return TextBatch(context, torch.cat(pooled).to(device) if pooled else None)
        if self._learning:
            return encode_texts(self._pipe, captions)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return encode_texts(self._pipe, captions)
