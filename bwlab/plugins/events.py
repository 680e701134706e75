"""Records that the trainer passes to plugins: plain strings and numbers, safe to log, pickle or send elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunRecord:
    """A training run that starts or resumes.

    Attributes:
        out: the run's folder.
        base: the base model as the user named it, `"emoji"` or a folder.
        base_hash: hash of the base's weights.
        adapter: name of the adapter type.
        blocks: the rank spec as given, `"upper=16, mid=4"`.
        block_ranks: highest rank in each trained block, by block name.
        steps: optimiser steps of the whole run.
        first_step: optimiser steps taken before the run was resumed; 0 for a new run.
        batch_size: number of images in each step.
        parameters: number of trained parameters.
        seed: seed of all random choices.
        config: the whole configuration as TOML text.

    """

    out: str
    base: str
    base_hash: str
    adapter: str
    blocks: str
    block_ranks: Mapping[str, float]
    steps: int
    first_step: int
    batch_size: int
    parameters: int
    seed: int
    config: str


@dataclass(frozen=True)
class StepRecord:
    """A finished optimiser step.

    Attributes:
        step: 1 for the first step of the run.
        steps: steps of the whole run.
        loss: the minimised loss, including extra losses.
        learning_rate: learning rate at this step.
        grad_norm: L2 norm of all gradients before clipping.
        seconds: wall time of this step.
        extra: the losses of plugins by name, before they were added.

    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint that was written completely.

    Attributes:
        step: number of finished optimiser steps.
        path: the checkpoint's folder or file.
        adapter: the adapter file in it.

    """

    step: int
    path: str
    adapter: str


@dataclass(frozen=True)
class FinishRecord:
    """The end of a finished run.

    Attributes:
        step: number of finished optimiser steps.
        loss: mean loss of the last steps.
        seconds: wall time since the run was started or last resumed.
        adapter: the final adapter file.

    """

    step: int
    loss: float
    seconds: float
    adapter: str
