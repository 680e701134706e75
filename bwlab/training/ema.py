"""The moving average of what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """An exponential moving average of tensors, beside them.

    Early on it forgets faster: the decay after n steps is at most ``(1 + n) / (10 + n)``, so that where it started
    does not weigh on it.

    Args:
        tensors: what is averaged; it starts at their values.
        decay: 0..1.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self._tensors, self.decay = list(tensors), decay
        self.values = [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the tensors as they are after ``step`` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for value, tensor in zip(self.values, self._tensors, strict=True):
            value.lerp_(tensor, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages into the tensors inside a ``with`` block; after it they are bit for bit what they were."""
        before = [tensor.detach().clone() for tensor in self._tensors]
        try:
            self._fill(self.values)
            yield
        finally:
            self._fill(before)

    def load(self, values: Sequence[Tensor]) -> None:
        """Go on from averages that were saved, in the order of the tensors."""
        for value, saved in zip(self.values, values, strict=True):
            value.copy_(saved)

    @torch.no_grad()
    def _fill(self, values: Sequence[Tensor]) -> None:
        for tensor, value in zip(self._tensors, values, strict=True):
            tensor.copy_(value)
