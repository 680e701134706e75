"""The optimisers by name, with the options that each of them has."""

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

Converter = Callable[[object], object]  # raises ValueError, which says what is wanted


def number(least: float = -math.inf, below: float = math.inf, above: float = -math.inf) -> Converter:
    """Return a converter that takes finite numbers with `above < x`, `least <= x < below`."""

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
    """How an optimiser is made.

    Attributes:
        load: imports its class.
        options: its further options, each with its converter.
        defaults: options that differ from the class's own defaults.
        constants: arguments that users do not choose.

    """

    load: Callable[[], type[torch.optim.Optimizer]]
    options: Mapping[str, Converter]
    defaults: Mapping[str, object] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)


def flag(value: object) -> object:
    """Return a truth value as it is; ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def load_adafactor() -> type[torch.optim.Optimizer]:
    """Return transformers' Adafactor (Shazeer and Stern, arXiv 1804.04235).

    PyTorch's own always scales steps by the size of a weight, which for an adapter that starts at zero is next to none.
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
        found = "the package prodigyopt is not installed"
        raise BwlabError("training.optimizer = prodigy", found, "pip install 'bwlab[prodigy]'") from error
    kind: type[torch.optim.Optimizer] = Prodigy
    return kind


def pair(*each: Converter) -> Converter:
    """Return a converter that takes a list with one value for each of the converters."""

    def convert(value: object) -> object:
        if not isinstance(value, (list, tuple)) or len(value) != len(each):
            raise ValueError(f"a list of {len(each)} numbers")
        return tuple(part(entry) for part, entry in zip(each, value, strict=True))

    return convert


OPTIMIZERS: Mapping[str, OptimizerSpec] = {
    "adamw": OptimizerSpec(load_adamw, {"betas": pair(FRACTION, FRACTION), "eps": POSITIVE, "amsgrad": flag}),
    # The rate is the user's, as every LoRA trainer has it: no relative steps, no scaling by the weight.
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
    # Its authors recommend both of the defaults below for diffusion models, with a weight decay of 0.01.
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

# The names that diffusers has for them.
SCHEDULES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
}


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def checked_options(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """Return the optimiser's options as it takes them.

    Raises:
        BwlabError: an option it does not have, with the nearest one that it has, or a value it cannot take.

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
            raise BwlabError(asked, "a value it cannot take", f"Give {error}") from None
    return converted


def new_optimizer(
    name: str, groups: Sequence[Mapping[str, Any]], options: Mapping[str, object], fused: bool
) -> torch.optim.Optimizer:
    """Return the optimiser of parameter groups, each with its `params`, `lr` and `weight_decay`.

    Args:
        name: `adamw`, `adafactor` or `prodigy`.
        groups: as PyTorch's optimisers take them.
        options: as `checked_options` returns them.
        fused: whether to use AdamW's fused form, the fast one where a device has it.

    """
    recipe = OPTIMIZERS[name]
    arguments: dict[str, Any] = {**recipe.defaults, **options, **recipe.constants}
    if name == "adamw":
        arguments["fused"] = fused
    with contextlib.redirect_stdout(io.StringIO()):  # Prodigy prints that it decays weights
        return recipe.load()([dict(group) for group in groups], **arguments)


def rate_factor(config: OptimizerConfig) -> Factor:
    """Return the function from the steps taken so far to what the learning rate is multiplied by, 0..1.

    It is diffusers' schedule of that name. Being a function of the step alone, it has no state to save.

    Raises:
        BwlabError: the warm-up takes the whole run.

    """
    from diffusers.optimization import get_scheduler

    if config.warmup >= config.steps:
        found = f"the run has {config.steps} steps"
        raise BwlabError(f"training.warmup = {config.warmup}", found, "Give fewer steps of warm-up, or more in all")
    # diffusers' schedules want an optimiser, of which they read the rate only: 1 makes rates factors.
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = get_scheduler(SCHEDULES[config.schedule], optimizer, None, config.warmup, config.steps, config.cycles)
    factor: Factor = schedule.lr_lambdas[0]
    return factor
