"""What all trainings of the plugin share: a restartable state, a log, and the optimiser Muon."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import torch
from rich.console import Console
from torch import Tensor, nn

from bwlab.terminal import ProgressBar
from bwlab.training.device import multiplies_bf16

# Coefficients of the quintic iteration that takes singular values to 0.7..1.2 in five steps.
ITERATION = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, eq=False)
class TrainingFile:
    """The state of a training in one file, from which it continues as if it had never stopped.

    Attributes:
        path: the file.
        parts: key in the file -> model or optimiser.
        generator: the source of the training's randomness.

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


AVERAGE_DECAY = 0.999
AVERAGED_STEPS = 10
"""Steps between two updates of the average."""


class RestartableTraining(ABC):
    """A training that goes on from its checkpoint.

    Attributes:
        step: steps that are done.
        steps: optimiser steps in all.

    Args:
        checkpoint: the state of the training; restored here.
        steps: optimiser steps in all.

    """

    def __init__(self, checkpoint: TrainingFile, steps: int) -> None:
        self._checkpoint, self.steps = checkpoint, steps
        self.step: int = 0
        self._go_on_from(checkpoint.restore())

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint holds beside its parts; nothing if there is none."""
        self.step = state.get("step", 0)

    @abstractmethod
    def _change(self) -> Tensor:
        """Compute the gradients of step `self.step`, change the weights, and return the loss."""

    def save(self) -> None:
        """Write the checkpoint, replacing the last one only when it is complete."""
        self._checkpoint.save(self.step)

    def run(self, log: StageLog, save_every: int = 500) -> None:
        """Train to the last step, with a checkpoint every `save_every` steps."""
        while self.step < self.steps:
            loss = self._learn()
            log.step(self.step, self.steps, loss)
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()

    def _learn(self) -> float:
        loss = self._change()
        self.step += 1
        return float(loss.detach())


class AveragedTraining(RestartableTraining):
    """A restartable training with a moving average of the weights.

    Attributes:
        average: the moving average of the model's state, by key.

    Args:
        model: what is trained.
        checkpoint: the state of the training; restored here.
        steps: optimiser steps in all.

    """

    def __init__(self, model: nn.Module, checkpoint: TrainingFile, steps: int) -> None:
        self._trained = model
        self.average: dict[str, Tensor] = {}
        super().__init__(checkpoint, steps)

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        super()._go_on_from(state)
        self.average = state.get("average") or {key: value.clone() for key, value in self._trained.state_dict().items()}

    def save(self) -> None:
        """Write the checkpoint with the average, replacing the last one only when it is complete."""
        self._checkpoint.save(self.step, average=self.average)

    def _learn(self) -> float:
        loss = super()._learn()
        if self.step % AVERAGED_STEPS == 0:
            self._update_average()
        return loss

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(AVERAGE_DECAY**AVERAGED_STEPS, self.step / (self.step + 100))
        for key, value in self._trained.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - keep)


def let_all_read(folder: Path) -> None:
    """Let everyone read the weights in a folder; safetensors writes them readable by their owner alone."""
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


class StageLog:
    """Shows a stage's progress and appends its losses and measurements to a JSON-lines file.

    Args:
        name: the stage, shown before the bar.
        path: the log file; lines are appended.
        console: where the bar is drawn.
        every: steps between two loss records (the mean loss of those steps).

    """

    def __init__(self, name: str, path: Path, console: Console, every: int = 100) -> None:
        self._name, self._path, self._every = name, path, every
        self._losses: list[float] = []
        self._cpu = time.process_time()
        self._console = console
        self._bar = ProgressBar(name, console=console, keep=True)

    def __enter__(self) -> StageLog:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def step(self, step: int, steps: int, loss: float) -> None:
        """Record one step's loss."""
        self._losses.append(loss)
        self._bar.update(step, steps, f"loss {loss:.4f}")
        if step % self._every == 0:
            mean = sum(self._losses) / len(self._losses)
            self._write(step, loss=mean, cpu_s=time.process_time() - self._cpu)
            self._losses.clear()

    def measured(self, step: int, **values: float) -> None:
        """Record measurements taken at a step."""
        self._write(step, **values)
        shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        self._console.print(f"{self._name} step {step}: {shown}")

    def _write(self, step: int, **values: float) -> None:
        record = {"stage": self._name, "step": step} | {key: round(value, 5) for key, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


@torch.no_grad()
def orthogonalised(matrix: Tensor) -> Tensor:
    """Return `(rows, columns)` with its singular vectors and singular values near 1, by Newton and Schulz."""
    fast = matrix.bfloat16() if multiplies_bf16() else matrix.float()
    wide = fast if matrix.shape[0] <= matrix.shape[1] else fast.mT
    wide = wide / (wide.norm() + 1e-7)
    first, third, fifth = ITERATION
    for _ in range(5):
        gram = wide @ wide.mT
        wide = first * wide + (third * gram + fifth * gram @ gram) @ wide
    result: Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.mT
    return result.to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for convolution kernels, each taken as a matrix of output channels x all else.

    Args:
        params: kernels `(out, in, h, w)`.
        lr: the rate; an update's singular values are near it (more for tall matrices).
        momentum: of gradients, Nesterov's.
        weight_decay: share of a kernel that is lost per step at rate 1.

    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.94, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Change every kernel that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is not None:
                    self._change(kernel, kernel.grad, group["lr"], group["momentum"], group["weight_decay"])
        return None

    def _change(self, kernel: Tensor, gradient: Tensor, rate: float, momentum: float, decay: float) -> None:
        state = self.state[kernel]
        if not state:
            state["mean"] = torch.zeros_like(gradient)
        state["mean"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(state["mean"], momentum).flatten(1)
        tall = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        kernel.mul_(1 - rate * decay)
        kernel.add_(orthogonalised(update).view_as(kernel), alpha=-rate * tall)
