"""What the trainer tells plugins: records of plain strings and numbers, safe to log, pickle or send elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunRecord:
    """A training run, as it starts or goes on.

    Attributes:
        out: the run's folder.
        base: the base model as the user named it, `"emoji"` or a folder.
        base_hash: hash of the base's weights.
        adapter: name of the adapter type.
        blocks: the rank spec as given, `"upper=16, mid=4"`.
        block_ranks: highest rank in each trained block, by block name.
        steps: optimiser steps of the whole run.
        first_step: steps that an earlier sitting already took; 0 unless resumed.
        batch_size: images of each step.
        parameters: numbers that are trained.
        seed: of every random choice.
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
    """One optimiser step that is done.

    Attributes:
        step: 1 for the first step of the run.
        steps: steps of the whole run.
        loss: what was minimised, extra losses included.
        learning_rate: in force at this step.
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
    """A file that was written completely.

    Attributes:
        step: optimiser steps done.
        path: the checkpoint's folder or file.
        adapter: the adapter file in it.

    """

    step: int
    path: str
    adapter: str


@dataclass(frozen=True)
class FinishRecord:
    """How a run ended.

    Attributes:
        step: optimiser steps done.
        loss: mean loss of the last steps.
        seconds: wall time of this sitting.
        adapter: the final adapter file.

    """

    step: int
    loss: float
    seconds: float
    adapter: str
