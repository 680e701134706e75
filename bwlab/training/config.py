"""The settings of a training run, checked when they are made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from bwlab.errors import BwlabError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
Number = TypeVar("Number", int, float)


class SettingError(BwlabError):
    """A setting with a value it cannot have.

    Args:
        key: the setting's name within its section.
        value: what it was set to.
        found: what is wrong with that.
        fix: what to give instead.
    """

    def __init__(self, key: str, value: object, found: str, fix: str) -> None:
        super().__init__(f"{key} = {value}", found, fix)
        self.key = key


def bounded(
    default: Number, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> Number:
    """Return a dataclass field for a number with bounds, which `Section` checks."""
    return field(default=default, metadata={"least": least, "above": above, "most": most})


def check_number(key: str, value: float, bounds: Mapping[str, float | None]) -> None:
    """Raise SettingError unless ``value`` is finite and within ``bounds`` (``least``, ``above``, ``most``)."""
    least, above, most = (bounds.get(name) for name in ("least", "above", "most"))
    wanted = [f"at least {least:g}"] if least is not None else []
    wanted += [f"above {above:g}"] if above is not None else []
    wanted += [f"at most {most:g}"] if most is not None else []
    inside = (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
    )
    if not inside:
        rule = " and ".join(["a finite number", *wanted])
        raise SettingError(key, value, "out of range", f"Give {rule}")


@dataclass(frozen=True)
class Section:
    """A group of settings whose numbers are checked against their bounds."""

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = self.__dict__[entry.name]
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                check_number(entry.name, value, entry.metadata)


@dataclass(frozen=True)
class AdapterConfig(Section):
    """What is trained.

    Attributes:
        type: an adapter type that a plugin registered (``bwlab plugins`` lists them).
        blocks: the rank of each block, in the grammar of block specs.
        alpha: the delta is scaled by ``alpha / rank``; none means each module's own rank, a scale of 1 everywhere.
        options: further options of the adapter type.
    """

    type: str = "locon"
    blocks: str = "all=16"
    alpha: float | None = field(default=None, metadata={"above": 0.0})
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig(Section):
    """What it is trained on.

    Attributes:
        folder: images with a ``.txt`` caption beside each.
        caption: the caption of images that have none; without it a missing caption is an error.
        repeats: times each image counts in an epoch, unless its folder is named ``25_name`` and so says it.
        resolution: side of the square pictures in pixels; none means the base's own.
        skip_broken: leave unreadable images out with a warning instead of stopping.
        cache: folder of the latents and text embeddings; none means the user's cache folder.
    """

    folder: str = ""
    caption: str | None = None
    repeats: int = bounded(1, least=1, most=100_000)
    resolution: int | None = field(default=None, metadata={"least": 8, "most": 8192})
    skip_broken: bool = False
    cache: str | None = None


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """How long and how fast it learns.

    Attributes:
        steps: optimiser steps.
        batch_size: pictures a step.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        precision: ``fp32``, ``bf16``, ``fp16`` (autocast) or ``auto``: fp32 on a CPU, half precision on a GPU.
        seed: of the adapter's start, the order of pictures, noise and timesteps.
    """

    steps: int = bounded(1000, least=1)
    batch_size: int = bounded(4, least=1, most=65_536)
    lr: float = bounded(5e-4, above=0.0)
    weight_decay: float = bounded(0.01, least=0.0)
    max_grad_norm: float = bounded(1.0, least=0.0)
    precision: str = "auto"
    seed: int = bounded(0, least=0, most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in PRECISIONS:
            raise SettingError("precision", self.precision, "unknown", f"Choose from {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class PreviewConfig(Section):
    """Pictures made while it learns.

    Attributes:
        every: steps between previews; 0 makes them only at the end.
        prompts: what they show; none given means the first two different captions of the data.
        negative: the negative prompt.
        steps: sampling steps.
        cfg: classifier-free guidance.
        seed: of the first picture; the next ones count up.
        enabled: false makes none at all.
    """

    every: int = bounded(500, least=0)
    prompts: tuple[str, ...] = ()
    negative: str = ""
    steps: int = bounded(25, least=1, most=1000)
    cfg: float = bounded(7.0, least=0.0, most=1000.0)
    seed: int = bounded(0, least=0, most=2**63 - 1)
    enabled: bool = True


@dataclass(frozen=True)
class CheckpointConfig(Section):
    """How often the run can be taken up again.

    Attributes:
        every: steps between checkpoints; 0 saves only at the end (and on Ctrl-C).
        keep: newest checkpoints that are kept.
    """

    every: int = bounded(500, least=0)
    keep: int = bounded(2, least=1)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run.

    Attributes:
        base: ``emoji`` (the embedded model) or the folder of a diffusers pipeline.
        out: folder of the run.
    """

    base: str = "emoji"
    out: str = ""
    adapter: AdapterConfig = AdapterConfig()
    data: DataConfig = DataConfig()
    training: OptimizerConfig = OptimizerConfig()
    preview: PreviewConfig = PreviewConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
