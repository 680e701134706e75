"""How the steps of a run and the epochs of its data correspond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bwlab.dataset.examples import Example


@dataclass(frozen=True)
class Epochs:
    """The epochs of a run.

    Every batch is full (`bwlab.dataset.order`), so a step may hold the end of an epoch and the beginning of the next.

    Attributes:
        examples: number of examples in an epoch.
        step_examples: number of examples in a step, in all its batches and processes.

    """

    examples: int
    step_examples: int

    def steps(self, epochs: int) -> int:
        """Return the number of steps after which this many epochs are complete."""
        return -(-epochs * self.examples // self.step_examples)

    def complete(self, step: int) -> int:
        """Return the number of epochs that are complete after a step."""
        return step * self.step_examples // self.examples

    def at(self, step: int) -> int:
        """Return the last epoch that a step completes, or else the epoch that it is in; steps and epochs count from 1.

        Before the first step it is 0.
        """
        begun = (step - 1) * self.step_examples // self.examples + 1
        return max(self.complete(step), begun) if step else 0

    def due(self, step: int, every: int | None, every_epochs: int | None) -> bool:
        """Return whether something that comes at every so many steps or epochs comes after this step.

        Args:
            step: number of steps taken, 1 or more.
            every: steps between two times; 0 or None: steps do not count.
            every_epochs: epochs between two times; None: epochs do not count.

        """
        if every_epochs is not None:
            return self.complete(step) // every_epochs > self.complete(step - 1) // every_epochs
        return bool(every) and step % (every or 1) == 0


def epoch_examples(examples: Sequence[Example]) -> int:
    """Return the number of examples in an epoch: each new one times its repeats, and as many for regularisation."""
    new = sum(example.repeats for example in examples if not example.regularisation)
    return 2 * new if any(example.regularisation for example in examples) else new
