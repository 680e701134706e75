"""Optimisers, as plugins register them.

An `OptimizerType` is a description that costs nothing to import; `load` imports torch when it is called.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from bwlab.errors import BwlabError, did_you_mean

if TYPE_CHECKING:
    import torch

Converter: TypeAlias = Callable[[object], object]  # raises ValueError with what to give instead

DEFAULT_RATE = 5e-4


@dataclass(frozen=True)
class OptimizerType:
    """An optimiser, selected with `--optimizer NAME`.

    Attributes:
        name: e.g. `"adamw"`; unique among all installed plugins.
        summary: one line for lists.
        load: imports and returns its class, a `torch.optim.Optimizer` that takes parameter groups with `params`, `lr`
            and `weight_decay`; `BwlabError` if its package is missing.
        options: names of the options that a user may give, each with a converter, which raises ValueError.
        defaults: defaults of bwlab where they differ from those of the class.
        constants: arguments that users cannot change.
        rate: learning rate that is used unless the user gives one, above 0.
        one_rate: whether it finds the learning rate itself, as one number `d` in its parameter groups. `lr` is then a
            factor of it, the same for all parameters.
        takes_fused: whether its class has the argument `fused`, for an implementation that is faster on CPU and CUDA.

    """

    name: str
    summary: str
    load: Callable[[], type[torch.optim.Optimizer]]
    options: Mapping[str, Converter] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
    rate: float = DEFAULT_RATE
    one_rate: bool = False
    takes_fused: bool = False

    def checked_options(self, options: Mapping[str, object]) -> dict[str, object]:
        """Return the options that a user gives, checked and converted.

        Raises:
            BwlabError: the optimiser lacks an option (with the nearest one that it has), or a value is invalid.

        """
        converted: dict[str, object] = {}
        for option, value in options.items():
            asked = f"training.optimizer_options.{option} = {value}"
            if option not in self.options:
                fix = f"{did_you_mean(option, self.options)}Its options: {', '.join(self.options) or 'none'}"
                raise BwlabError(asked, f"{self.name} has no such option", fix)
            try:
                converted[option] = self.options[option](value)
            except ValueError as error:
                raise BwlabError(asked, "an invalid value", f"Give {error}") from None
        return converted

    def new(
        self, groups: Sequence[Mapping[str, Any]], options: Mapping[str, object], fused: bool = False
    ) -> torch.optim.Optimizer:
        """Return a new optimiser.

        Args:
            groups: parameter groups, each with `params`, `lr` and `weight_decay`.
            options: options as `checked_options` returns them.
            fused: whether the device has the fused implementation; only for types that take it.

        """
        arguments: dict[str, Any] = {**self.defaults, **options, **self.constants}
        if self.takes_fused:
            arguments["fused"] = fused
        with contextlib.redirect_stdout(io.StringIO()):  # Prodigy prints a line about weight decay
            return self.load()([dict(group) for group in groups], **arguments)

    def class_name(self) -> str:
        """Return the class with its module, as kohya's trainer names optimisers: `torch.optim.adamw.AdamW`."""
        kind = self.load()
        return f"{kind.__module__}.{kind.__name__}"


def is_number(value: object) -> bool:
    """Return whether a value is a finite number and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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


def whole_number(least: int = 0) -> Converter:
    """Return a converter for whole numbers of at least `least`."""

    def convert(value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number of at least {least}")
        return value

    return convert


def flag(value: object) -> object:
    """Return a boolean as it is; ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def pair(*each: Converter) -> Converter:
    """Return a converter for a list with one value for each of the converters."""

    def convert(value: object) -> object:
        if not isinstance(value, (list, tuple)) or len(value) != len(each):
            raise ValueError(f"a list of {len(each)} numbers")
        return tuple(part(entry) for part, entry in zip(each, value, strict=True))

    return convert


FRACTION = number(least=0.0, below=1.0)
POSITIVE = number(above=0.0)
