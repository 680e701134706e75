"""Train for long, and say whether memory, open files, threads and the time of a step stay what they were.

    python -m tests.training.load --minutes 15 --steps 100000

A tiny adapter is trained on the embedded base, with checkpoints and previews. The process is sampled every `--every`
steps, and the last quarter of the samples is compared with the second one, as the first holds what is only made once.
Needs /proc, as on Linux.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from rich.console import Console

from bwlab import hookimpl
from bwlab.plugins.events import StepRecord
from bwlab.tables import Cell, Row, Table, columns_of, print_table
from bwlab.training.config import TrainConfig
from bwlab.training.settings import read_config
from tests.dataset.small_data import write_image
from tests.training.runs import run

MEMORY_GROWTH = 8.0
"""Largest growth of the resident memory, in MB: what malloc may keep, and the log of the run."""
SLOWER = 1.1
"""Largest ratio of the CPU seconds of a step, late to early."""
SETS = (
    *("base=emoji", "adapter.blocks=mid=2", "training.batch_size=1", "data.resolution=32", "checkpoint.keep=2"),
    *("preview.steps=1", "training.device=cpu"),
)


@dataclass(frozen=True)
class Sample:
    """The process after a step.

    Attributes:
        step: the step.
        memory: resident memory in MB.
        handles: number of open file handles.
        threads: number of threads.
        seconds: CPU seconds of one step, mean since the sample before.

    """

    step: int
    memory: float
    handles: int
    threads: int
    seconds: float


class Watch:
    """A plugin that samples the process every `every` steps, and ends the run in time.

    Attributes:
        samples: the samples.
        stopped: whether it has stopped the run because the time was over.

    """

    def __init__(self, every: int, minutes: float) -> None:
        self.samples: list[Sample] = []
        self.stopped = False
        self._every = every
        self._minutes = minutes
        self._end: float | None = None  # known from the first step on
        self._last = 0, time.process_time()

    @hookimpl
    def bwlab_step_finished(self, record: StepRecord) -> None:
        """Sample the process if it is time to."""
        if record.step % self._every == 0:
            steps, now = record.step - self._last[0], time.process_time()
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            memory, threads = int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"])
            handles = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only
            self.samples.append(Sample(record.step, memory, handles, threads, (now - self._last[1]) / steps))
            self._last = record.step, now
        if self._end is None:
            self._end = time.monotonic() + 60 * self._minutes
        elif time.monotonic() > self._end and not self.stopped:
            self.stopped = True
            signal.raise_signal(signal.SIGINT)  # the run saves a checkpoint and ends


def config_of(root: Path, steps: int, every: int, *sets: str) -> TrainConfig:
    """Return a run of a tiny adapter on two images, with a checkpoint and a preview at every fifth sample."""
    for index, caption in enumerate(("ink, fox", "ink, owl")):
        write_image(root / "data" / f"{index}.png", index)
        (root / "data" / f"{index}.txt").write_text(caption, encoding="utf-8")
    places = f"data.folder={root / 'data'}", f"data.cache={root / 'cache'}", f"out={root / 'out'}"
    lasting = f"training.steps={steps}", f"checkpoint.every={5 * every}", f"preview.every={5 * every}"
    return read_config(sets=[*SETS, *places, *lasting, *sets])


def watched(config: TrainConfig, watch: Watch) -> Sequence[Sample]:
    """Return the samples of a run, which may be stopped before its end."""
    try:
        run(config, watch, console=Console(quiet=True))
    except KeyboardInterrupt:
        if not watch.stopped:
            raise
    return watch.samples


def early_and_late(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Return the second and the last quarter of the samples."""
    quarter = len(samples) // 4
    return samples[quarter : 2 * quarter], samples[-quarter:]


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return a line for each quantity that has grown, from the second quarter of the samples to the last."""
    early, late = early_and_late(samples)
    memory = fmean(one.memory for one in late) - fmean(one.memory for one in early)
    slower = fmean(one.seconds for one in late) / fmean(one.seconds for one in early)
    grown = [f"{memory:.1f} MB of memory"] if memory > MEMORY_GROWTH else []
    for what in ("handles", "threads"):
        more = max(getattr(one, what) for one in late) - max(getattr(one, what) for one in early)
        grown += [f"{what}: {more} more"] if more > 0 else []
    return grown + ([f"steps took {slower:.2f} times as long"] if slower > SLOWER else [])


def table(samples: Sequence[Sample]) -> Table:
    """Return ten of the samples as a table."""
    rows: list[Row] = [
        tuple(
            map(
                Cell,
                (f"{one.step}", f"{one.memory:.1f}", f"{one.handles}", f"{one.threads}", f"{1000 * one.seconds:.2f}"),
            )
        )
        for one in samples[:: max(1, len(samples) // 10)]
    ]
    return Table(columns_of("step", "memory, MB", "handles", "threads", "CPU ms a step"), tuple(rows))


def main() -> int:
    """Run the command and return its exit code: 1 if anything has grown."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.training.load", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=120, help="longest time in minutes (120)")
    parser.add_argument("--steps", type=int, default=100_000, help="number of steps (100,000)")
    parser.add_argument("--every", type=int, default=100, help="steps between two samples (100)")
    asked = parser.parse_args()
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as root:
        os.environ["BWLAB_CACHE"] = f"{root}/cache"
        watch = Watch(asked.every, asked.minutes)
        samples = watched(config_of(Path(root), asked.steps, asked.every), watch)
    if len(samples) < 8:
        console.print(f"{len(samples)} samples: too few to compare; give more minutes")
        return 1
    print_table(console, table(samples))
    grown = growth(samples)
    early, late = (fmean(one.memory for one in part) for part in early_and_late(samples))
    console.print(f"{samples[-1].step} steps; memory {early:.1f} MB early, {late:.1f} MB late")
    console.print(f"Grown: {', '.join(grown)}." if grown else "Nothing has grown.")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
