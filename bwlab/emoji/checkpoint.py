"""Where a training of the embedded base's models goes on after a stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, eq=False)
class TrainingFile:
    """What a training needs to go on as if it had never stopped, in one file.

    Attributes:
        path: of the file.
        parts: key in the file -> what is trained, and its optimiser.
        generator: of the training's randomness.
    """

    path: Path
    parts: Mapping[str, nn.Module | torch.optim.Optimizer]
    generator: torch.Generator

    def save(self, step: int, **others: object) -> None:
        """Write the file, replacing the last one only when it is complete."""
        state = {key: part.state_dict() for key, part in self.parts.items()}
        temporary = self.path.with_suffix(".tmp")
        torch.save({**state, "generator": self.generator.get_state(), "step": step, **others}, temporary)
        temporary.replace(self.path)

    def restore(self) -> Mapping[str, Any]:
        """Set parts and generator to what the file holds, and return all of it; nothing if there is no file."""
        if not self.path.is_file():
            return {}
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        for key, part in self.parts.items():
            part.load_state_dict(state[key])
        self.generator.set_state(state["generator"])
        return state
