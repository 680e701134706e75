"""Which pictures each step sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bwlab.training.randomness import generator_for


def batch_indices(repeats: Sequence[int], seed: int, step: int, batch_size: int) -> list[int]:
    """Return the pictures of one step.

    Pictures come in epochs, each a fresh permutation of every picture ``repeats`` times; a batch may span epochs.

    Args:
        repeats: how often each picture counts in an epoch.
        seed: of the run.
        step: 0 for the first.
        batch_size: pictures a step.
    """
    pool = torch.repeat_interleave(torch.arange(len(repeats)), torch.tensor(repeats))
    first, past = step * batch_size, (step + 1) * batch_size
    epochs = range(first // len(pool), (past - 1) // len(pool) + 1)
    shuffled = [pool[torch.randperm(len(pool), generator=generator_for(seed, "epoch", epoch))] for epoch in epochs]
    offset = epochs.start * len(pool)
    chosen: list[int] = torch.cat(shuffled)[first - offset : past - offset].tolist()
    return chosen
