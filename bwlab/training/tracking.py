"""Progress of a run: a bar on the terminal, and accelerate's trackers for TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from bwlab.dataset.epochs import Epochs
from bwlab.errors import BwlabError, did_you_mean
from bwlab.terminal import ProgressBar
from bwlab.training.config import TrackingConfig

TENSORBOARD = "tensorboard"  # subfolder of the run's folder
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}

SMOOTHING = 0.98


def check_trackers(config: TrackingConfig) -> None:
    """Raise BwlabError for an unknown tracker, with the nearest name, or one whose package is not installed."""
    for name in config.trackers:
        if name not in PACKAGES:
            reason, fix = "no such tracker", f"{did_you_mean(name, PACKAGES)}Choose from {', '.join(PACKAGES)}"
            raise BwlabError(f"tracking.trackers, {name!r}", reason, fix)
        if importlib.util.find_spec(PACKAGES[name]) is None:
            reason = f"the package {PACKAGES[name]} is not installed"
            raise BwlabError(f"tracking.trackers, {name!r}", reason, f"pip install 'bwlab[{name}]'")


class Trackers:
    """The trackers of a run, started.

    Args:
        config: names of the trackers, of the project and of the run.
        folder: the folder of the run; TensorBoard's files go to `tensorboard/` in it, those of W&B to `wandb/`.
        settings: all settings of the run, for W&B's overview.
        step: number of steps already taken; TensorBoard discards later steps from before the run was resumed.

    """

    def __init__(self, config: TrackingConfig, folder: Path, settings: Mapping[str, object], step: int) -> None:
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        self._trackers: list[Any] = []
        run = config.run or folder.resolve().name
        if "tensorboard" in config.trackers:
            project = folder / TENSORBOARD / config.project
            self._trackers.append(TensorBoardTracker(run, project, purge_step=step + 1 if step else None))
        if "wandb" in config.trackers:
            # Nothing leaves the machine unless the user says so.
            mode = os.environ.get("WANDB_MODE", "offline")
            arguments = {"name": run, "dir": str(folder), "mode": mode, "config": dict(settings)}
            self._trackers.append(WandBTracker(config.project, **arguments, settings={"silent": True}))
        for tracker in self._trackers:
            tracker.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Report the numbers of one step."""
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def finish(self) -> None:
        """Write the numbers that are not written yet."""
        for tracker in self._trackers:
            tracker.finish()


class TrainingBar:
    """A bar with the steps, the time left, the epoch and the loss, smoothed over about 50 steps as losses vary widely.

    It is shown during a `with` block. Where the console is no terminal, one line at the end takes its place.

    Args:
        console: the console for the bar.
        step: number of steps already taken.
        steps: number of steps of the whole run.
        epochs: the epochs in these steps.

    """

    def __init__(self, console: Console, step: int, steps: int, epochs: Epochs) -> None:
        self._console, self._step, self._steps, self._epochs = console, step, steps, epochs
        self._bar = ProgressBar("training steps", steps, console=console, done=step, keep=True)
        self._sum = self._weight = 0.0

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)
        if not self._console.is_terminal and self._weight:
            self._console.print(f"training steps {self._step}/{self._steps} {self._detail()}", highlight=False)

    def advance(self, loss: float) -> None:
        """Show one more step and its loss."""
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * loss
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        self._step += 1
        self._bar.advance(self._detail())

    def _detail(self) -> str:
        epoch = f"epoch {self._epochs.at(self._step)}/{self._epochs.at(self._steps)}"
        return f"{epoch} loss {self._sum / self._weight:.4f}"
