"""Optimisers, as plugins register them.

An `OptimizerType` is a description that costs nothing to import; `load` imports torch when it is called.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bwlab.config.options import Converter, checked_options

if TYPE_CHECKING:
    import torch

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
        state_bytes: bytes of its state for each trained number, for plans of memory; None: not known.
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
    state_bytes: float | None = None

    def checked_options(self, options: Mapping[str, object]) -> dict[str, object]:
        """Return the options that a user gives, checked and converted.

        Raises:
            BwlabError: the optimiser lacks an option (with the nearest one that it has), or a value is invalid.

        """
        return checked_options(
            self.name, self.options, options, lambda option, value: f"training.optimizer_options.{option} = {value}"
        )

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
