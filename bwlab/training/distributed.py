"""What the processes of one run do together.

Each process computes the gradients of its own examples, and before the optimiser's step they are averaged. Adapters act
through hooks inside the frozen UNet, so there is no module whose forward pass DistributedDataParallel could wrap; and
as adapters are small, one exchange of all gradients after the backward pass costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from accelerate import Accelerator


class StoppedElsewhere(BwlabError):
    """This process ends because another one of the same run has failed.

    Args:
        process: the number of this one.

    """

    def __init__(self, process: int) -> None:
        super().__init__(f"process {process}", "another process of the run has failed", "Look at its message")


class Processes:
    """The processes of a run; with one process everything here is done at once and alone.

    Args:
        accelerator: knows them.

    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.size, self.number = int(accelerator.num_processes), int(accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and draws progress."""
        return self.number == 0

    def rows(self, batch_size: int) -> slice:
        """Return this process's part of a batch of `batch_size` examples for each process."""
        return slice(self.number * batch_size, (self.number + 1) * batch_size)

    @contextmanager
    def together(self) -> Iterator[None]:
        """In a `with` block that all processes run: an error in one of them ends it in all, so that none waits.

        Inside the block no process may wait for another.

        Raises:
            StoppedElsewhere: here all went well, but not in another process.

        """
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):  # the others may have gone already
                self.any(True)
            raise
        if self.any(False):
            raise StoppedElsewhere(self.number)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """In a `with` block: the main process goes first, the others after it; an error in one ends it in all.

        Raises:
            StoppedElsewhere: here all went well, or was not begun, but another process has failed.

        """
        if not self.is_main:
            if self.any(False):
                raise StoppedElsewhere(self.number)
            with self.together():
                yield
            return
        failed = True
        try:
            yield
            failed = False
        finally:
            self.any(failed)
        if self.any(False):  # the others' turn
            raise StoppedElsewhere(self.number)

    def any(self, here: bool) -> bool:
        """Return whether `here` is true in any process."""
        return here if self.size == 1 else float(self._sum(torch.tensor([float(here)]))[0]) > 0

    def mean(self, values: Sequence[Tensor]) -> list[float]:
        """Return the means of scalars over all processes."""
        stacked = torch.stack([value.detach().float().cpu() for value in values])
        means: list[float] = (self._sum(stacked) / self.size if self.size > 1 else stacked).tolist()
        return means

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make every parameter's gradient the mean over all processes; one that is missing counts as zero."""
        if self.size == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        mean = self._sum(torch.cat([gradient.flatten() for gradient in gradients])) / self.size
        sizes = [gradient.numel() for gradient in gradients]
        for parameter, part in zip(parameters, mean.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def _sum(self, values: Tensor) -> Tensor:
        total: Tensor = self._accelerator.reduce(values.to(self._accelerator.device), reduction="sum")
        return total


def is_main_process() -> bool:
    """Return whether this process is the only one of its run, or the one that writes."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def leave_processes() -> None:
    """Take leave of the run's other processes, if there are any."""
    from accelerate import PartialState

    if PartialState._shared_state:
        PartialState().destroy_process_group()
