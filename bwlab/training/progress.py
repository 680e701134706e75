"""The progress bar of a training run."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SMOOTHING = 0.98


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
