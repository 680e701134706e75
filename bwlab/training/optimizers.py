"""Optimisers by name, the options of each of them, and learning rate schedules."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bwlab.errors import BwlabError, did_you_mean
from bwlab.training.config import OptimizerConfig

Converter = Callable[[object], object]  # raises ValueError with what to give instead


def number(least: float = -math.inf, below: float = math.inf, above: float = -math.inf) -> Converter:
    """Return a converter for finite numbers `x` with `least <= x < below` and `above < x`."""

    def convert(value: object) -> object:
        if not (is_number(value) and least <= value < below and value > above):  # type: ignore[operator]
            bounds = [f"at least {least:g}"] if least > -math.inf else []
            bounds += [f"above {above:g}"] if above > -math.inf else []
            bounds += [f"below {below:g}"] if below < math.inf else []
            raise ValueError(" ".join(["a finite number", " and ".join(bounds)]).strip())
        return value

    return convert


FRACTION = number(least=0.0, below=1.0)
POSITIVE = number(above=0.0)


@dataclass(frozen=True)
class OptimizerSpec:
    """How to make an optimiser.

    Attributes:
        load: imports and returns its class.
        options: names of its options, each with a converter.
        defaults: defaults of bwlab where they differ from those of the class.
        constants: arguments that users cannot change.

    """

    load: Callable[[], type[torch.optim.Optimizer]]
    options: Mapping[str, Converter]
    defaults: Mapping[str, object] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)


def flag(value: object) -> object:
    """Return a boolean as it is; ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def load_adafactor() -> type[torch.optim.Optimizer]:
    """Return transformers' Adafactor (Shazeer and Stern, arXiv 1804.04235).

    PyTorch's Adafactor always scales steps by the size of a weight, which is close to zero for a new adapter.
    """
    from transformers.optimization import Adafactor

    kind: type[torch.optim.Optimizer] = Adafactor
    return kind


def load_adamw() -> type[torch.optim.Optimizer]:
    """Return PyTorch's AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""
    return torch.optim.AdamW


def load_prodigy() -> type[torch.optim.Optimizer]:
    """Return Prodigy (Mishchenko and Defazio, arXiv 2306.06101); BwlabError if its package is not installed."""
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        reason = "the package prodigyopt is not installed"
        raise BwlabError("training.optimizer = prodigy", reason, "pip install 'bwlab[prodigy]'") from error
    kind: type[torch.optim.Optimizer] = Prodigy
    return kind


def pair(*each: Converter) -> Converter:
    """Return a converter for a list with one value for each of the converters."""

    def convert(value: object) -> object:
        if not isinstance(value, (list, tuple)) or len(value) != len(each):
            raise ValueError(f"a list of {len(each)} numbers")
        return tuple(part(entry) for part, entry in zip(each, value, strict=True))

    return convert


OPTIMIZERS: Mapping[str, OptimizerSpec] = {
    "adamw": OptimizerSpec(load_adamw, {"betas": pair(FRACTION, FRACTION), "eps": POSITIVE, "amsgrad": flag}),
    # The learning rate is that of the settings, as in other LoRA trainers: no relative steps, no scaling by the weight.
    "adafactor": OptimizerSpec(
        load_adafactor,
        {
            "eps": pair(number(least=0.0), number(least=0.0)),
            "clip_threshold": POSITIVE,
            "decay_rate": number(below=0.0),
            "beta1": FRACTION,
            "scale_parameter": flag,
        },
        {"scale_parameter": False},
        {"relative_step": False, "warmup_init": False},
    ),
    # The authors of Prodigy recommend both defaults for diffusion models, with a weight decay of 0.01.
    "prodigy": OptimizerSpec(
        load_prodigy,
        {
            "betas": pair(FRACTION, FRACTION),
            "beta3": FRACTION,
            "eps": POSITIVE,
            "decouple": flag,
            "use_bias_correction": flag,
            "safeguard_warmup": flag,
            "d0": POSITIVE,
            "d_coef": POSITIVE,
            "growth_rate": number(least=1.0),
        },
        {"use_bias_correction": True, "safeguard_warmup": True},
    ),
}

Factor = Callable[[int], float]

# Names of the schedules in diffusers.
SCHEDULES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
}


def is_number(value: object) -> bool:
    """Return whether a value is a finite number and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def checked_options(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """Return the options of an optimiser, checked and converted.

    Raises:
        BwlabError: the optimiser lacks an option (with the nearest one that it has), or a value is invalid.

    """
    known = OPTIMIZERS[name].options
    converted: dict[str, object] = {}
    for option, value in options.items():
        asked = f"training.optimizer_options.{option} = {value}"
        if option not in known:
            fix = f"{did_you_mean(option, known)}Its options: {', '.join(known)}"
            raise BwlabError(asked, f"{name} has no such option", fix)
        try:
            converted[option] = known[option](value)
        except ValueError as error:
            raise BwlabError(asked, "an invalid value", f"Give {error}") from None
    return converted


def new_optimizer(
    name: str, groups: Sequence[Mapping[str, Any]], options: Mapping[str, object], fused: bool
) -> torch.optim.Optimizer:
    """Return a new optimiser.

    Args:
        name: `adamw`, `adafactor` or `prodigy`.
        groups: parameter groups, each with `params`, `lr` and `weight_decay`.
        options: options as `checked_options` returns them.
        fused: whether to use the fused AdamW, which is faster but not available on every device.

    """
    spec = OPTIMIZERS[name]
    arguments: dict[str, Any] = {**spec.defaults, **options, **spec.constants}
    if name == "adamw":
        arguments["fused"] = fused
    with contextlib.redirect_stdout(io.StringIO()):  # Prodigy prints a line about weight decay
        return spec.load()([dict(group) for group in groups], **arguments)


def rate_factor(config: OptimizerConfig, steps: int) -> Factor:
    """Return the schedule: from the number of steps taken to the factor of the learning rate, 0..1.

    The schedules are those of diffusers. As functions of the step alone they have no state to save.

    Args:
        config: the schedule, its warm-up and its cycles.
        steps: number of steps of the whole run.

    Raises:
        BwlabError: the warm-up takes the whole run.

    """
    from diffusers.optimization import get_scheduler

    if config.warmup >= steps:
        reason = f"the run has {steps} steps"
        raise BwlabError(f"training.warmup = {config.warmup}", reason, "Lower training.warmup or train longer")
    # diffusers' schedules need an optimiser, of which they read the learning rate alone: 1 turns rates into factors.
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = get_scheduler(SCHEDULES[config.schedule], optimizer, None, config.warmup, steps, config.cycles)
    factor: Factor = schedule.lr_lambdas[0]
    return factor
