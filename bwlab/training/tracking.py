"""Reports to TensorBoard and Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bwlab.errors import BwlabError, did_you_mean
from bwlab.training.config import TrackingConfig

TENSORBOARD = "tensorboard"  # folder of its files in that of the run
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}

SMOOTHING = 0.98


def check_trackers(config: TrackingConfig) -> None:
    """Raise BwlabError for a tracker that does not exist, naming the nearest, or whose package is not installed."""
    for name in config.trackers:
        if name not in PACKAGES:
            found, fix = "no such tracker", f"{did_you_mean(name, PACKAGES)}Choose from {', '.join(PACKAGES)}"
            raise BwlabError(f"tracking.trackers, {name!r}", found, fix)
        if importlib.util.find_spec(PACKAGES[name]) is None:
            found = f"the package {PACKAGES[name]} is not installed"
            raise BwlabError(f"tracking.trackers, {name!r}", found, f"pip install 'bwlab[{name}]'")


class Trackers:
    """The trackers of a run, started.

    Args:
        config: which ones, and under which names.
        folder: of the run; TensorBoard's files go to `tensorboard/` in it, those of W&B to `wandb/`.
        settings: the run's, for W&B's overview.
        step: steps already taken; what TensorBoard holds of later ones, from before a stop, is no longer shown.

    """

    def __init__(self, config: TrackingConfig, folder: Path, settings: Mapping[str, object], step: int) -> None:
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        self._trackers: list[Any] = []
        run = config.run or folder.resolve().name
        if "tensorboard" in config.trackers:
            place = folder / TENSORBOARD / config.project
            self._trackers.append(TensorBoardTracker(run, place, purge_step=step + 1 if step else None))
        if "wandb" in config.trackers:
            # Nothing leaves the machine unless the user says so.
            mode = os.environ.get("WANDB_MODE", "offline")
            arguments = {"name": run, "dir": str(folder), "mode": mode, "config": dict(settings)}
            self._trackers.append(WandBTracker(config.project, **arguments, settings={"silent": True}))
        for tracker in self._trackers:
            tracker.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Report numbers of one step."""
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def finish(self) -> None:
        """Write out what is not written yet."""
        for tracker in self._trackers:
            tracker.finish()


class TrainingBar:
    """Shows steps, time left and the loss, smoothed over some 50 steps as single losses jump with the timestep.

    Args:
        console: where it is drawn.
        step: steps already taken.
        steps: of the whole run.

    """

    def __init__(self, console: Console, step: int, steps: int) -> None:
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self.progress.add_task("training", total=steps, completed=step, loss="-")
        self._sum = self._weight = 0.0

    def advance(self, loss: float) -> None:
        """Show one more step and its loss."""
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * loss
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        self.progress.update(self._task, advance=1, loss=f"{self._sum / self._weight:.4f}")
