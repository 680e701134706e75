"""Progress of a training stage: a bar for the person, one JSON line a record for the files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


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
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            console=console,
        )
        self._task = self._progress.add_task(name, total=None, loss=0.0)

    def __enter__(self) -> StageLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, step: int, steps: int, loss: float) -> None:
        """Record one step's loss."""
        self._losses.append(loss)
        self._progress.update(self._task, completed=step, total=steps, loss=loss)
        if step % self._every == 0:
            mean = sum(self._losses) / len(self._losses)
            self._write(step, loss=mean, cpu_s=time.process_time() - self._cpu)
            self._losses.clear()

    def measured(self, step: int, **values: float) -> None:
        """Record measurements taken at a step."""
        self._write(step, **values)
        shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        self._progress.console.print(f"{self._name} step {step}: {shown}")

    def _write(self, step: int, **values: float) -> None:
        record = {"stage": self._name, "step": step} | {key: round(value, 5) for key, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
