"""Kill trainings or studies at random moments and prove that each one, begun again, ends as the one nobody killed.

    python -m tests.crash --kills 200 --seed 1 [--of study]

The work is done once to its end, and then killed (SIGKILL) time and again: every other time at a random time, else just
before it touches a random file in one phase of the work after the other. One in four is killed again when it goes on.
At its end each file has to have the same bytes as without a kill, and nothing else may be left in the folders.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes are forked, and threads are not

from rich.console import Console

from bwlab.base import load
from bwlab.tables import Cell, Table, columns_of, print_table
from tests.kills import Ending, Killable, Moment, Phases
from tests.loads import Loads

AGAIN = 1 / 4  # share of the kills after which the work is killed again when it goes on


class Trial(ABC):
    """Work in a folder, killed and begun again time and again.

    Args:
        root: an empty folder.
        seed: seed of the moments.

    """

    phases: ClassVar[Phases]

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.work, self.straight = root, root / "work", root / "straight"
        self.chance = random.Random(seed)
        self.process = Killable(self.phases, self.work)

    @abstractmethod
    def begin(self) -> None:
        """Do the work, all of whose files are in `work`, or go on with it."""

    @abstractmethod
    def same(self, one: Path, other: Path) -> bool:
        """Return whether two files of one name hold the same."""

    def run_straight(self) -> None:
        """Do the work once to its end; RuntimeError if that fails."""
        ending = self.process.run(self.begin)
        if ending.killed or ending.error:
            raise RuntimeError(f"the work that nobody kills fails: {ending.error}")
        self.timeline = self.process.timeline()
        self.work.rename(self.straight)

    def moments(self) -> Iterator[Moment]:
        """Yield moments without end, by turns a time and a touch of a file."""
        for phase in itertools.cycle(self.phases):
            if phase in self.timeline.touches:
                yield self.timeline.any_touch(self.chance, phase)
            yield self.timeline.any_time(self.chance)

    def kill(self, moment: Moment) -> tuple[Ending, bool, str]:
        """Kill the work, go on with it, and return how it was killed, whether again later, and what is wrong then."""
        shutil.rmtree(self.work, ignore_errors=True)
        first, again = self.process.run(self.begin, moment), False
        if self.chance.random() < AGAIN:
            again = self.process.run(self.begin, self.timeline.any_moment(self.chance)).killed
        last = self.process.run(self.begin)
        wrong = first.error or last.error or self.difference()
        return first, again, f"{moment}: {wrong}" if wrong else ""

    def difference(self) -> str:
        """Return the first difference to the work that nobody killed; an empty text if there is none."""
        names, others = (
            {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
            for root in (self.straight, self.work)
        )
        for name in sorted(names ^ others):
            return f"{name} is {'missing' if name in names else 'left behind'}"
        differing = (name for name in sorted(names) if not self.same(self.straight / name, self.work / name))
        return next((f"{name} differs" for name in differing), "")


@dataclass
class Outcome:
    """What the kills of one phase led to."""

    kills: int = 0
    again: int = 0
    failures: list[str] = field(default_factory=list)


def run_trials(kind: type[Trial], kills: int, seed: int) -> dict[str, Outcome]:
    """Kill the work that many times and return what came of it by phase."""
    outcomes = {phase: Outcome() for phase in kind.phases}
    # Each base is read once, and copied in each process.
    kept = mock.patch.object(load, "load_folder", Loads(load.load_folder))
    with tempfile.TemporaryDirectory() as root, kept:
        trial = kind(Path(root).resolve(), seed)
        trial.run_straight()
        done = 0
        for moment in trial.moments():
            if done == kills:
                break
            ending, again, wrong = trial.kill(moment)
            if not ending.killed and not wrong:
                continue  # it had ended before
            done += 1
            outcome = outcomes[ending.phase]
            outcome.kills, outcome.again = outcome.kills + 1, outcome.again + again
            if wrong:
                outcome.failures.append(f"kill {done}, {ending.phase}, {wrong}")
    return outcomes


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """Return a table of the kills by phase."""
    rows = [(phase, one.kills, one.again, len(one.failures)) for phase, one in outcomes.items()]
    cells = [(Cell(phase), *(Cell(str(number)) for number in counts)) for phase, *counts in rows]
    total = (Cell("all"), *(Cell(str(sum(int(row[column]) for row in rows))) for column in (1, 2, 3)))
    return Table(columns_of("phase", "killed", "killed again", "failures"), tuple(cells), totals=(total,))


def trial_of(name: str) -> type[Trial]:
    """Return the trial of `training` or of `study`."""
    if name == "study":
        from tests.analysis.study.crash import StudyTrial

        return StudyTrial
    from tests.training.crash import TrainingTrial

    return TrainingTrial


def main() -> int:
    """Run the command and return its exit code: 1 if anything differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="number of kills (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (0)")
    parser.add_argument("--of", choices=("training", "study"), default="training", help="what is killed (training)")
    asked = parser.parse_args()
    began = time.monotonic()
    outcomes = run_trials(trial_of(asked.of), asked.kills, asked.seed)
    console = Console(width=100)
    print_table(console, table(outcomes))
    failures = [failure for outcome in outcomes.values() for failure in outcome.failures]
    for failure in failures:
        console.print(failure, soft_wrap=True, markup=False)
    console.print(f"seed {asked.seed}, {time.monotonic() - began:.0f} seconds")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
