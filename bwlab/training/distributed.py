"""The processes of one run: waiting for each other, errors in one of them, and averaged gradients.

Each process computes the gradients of its own examples; they are averaged before the optimiser's step. Adapters act
through hooks inside the frozen UNet, so there is no module whose forward pass DistributedDataParallel could wrap. As
adapters are small, one exchange of all gradients after the backward pass costs next to nothing.
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
    """This process ends because another process of the same run has failed.

    Args:
        process: number of this process.

    """

    def __init__(self, process: int) -> None:
        super().__init__(
            f"process {process}", "another process of the run has failed", "Read the error of that process"
        )


class Processes:
    """The processes of a run, which may be just one.

    Args:
        accelerator: the accelerator that connects them.

    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.size, self.number = int(accelerator.num_processes), int(accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.number == 0

    def rows(self, batch_size: int) -> slice:
        """Return the rows of this process in a batch with `batch_size` examples for each process."""
        return slice(self.number * batch_size, (self.number + 1) * batch_size)

    @contextmanager
    def together(self) -> Iterator[None]:
        """End a `with` block of all processes with an error if one of them fails, so that no process waits for ever.

        Inside the block no process may wait for another.

        Raises:
            StoppedElsewhere: the block failed in another process, not in this one.

        """
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):  # the other processes may have ended already
                self.any(True)
            raise
        if self.any(False):
            raise StoppedElsewhere(self.number)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run a `with` block in the main process first, then in the others; an error in one process ends all of them.

        Raises:
            StoppedElsewhere: the block failed in another process, not in this one.

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
        if self.any(False):  # waits for the other processes
            raise StoppedElsewhere(self.number)

    def any(self, value: bool) -> bool:
        """Return whether `value` is true in any process."""
        return value if self.size == 1 else float(self._sum(torch.tensor([float(value)]))[0]) > 0

    def mean(self, values: Sequence[Tensor]) -> list[float]:
        """Return the means of scalars over all processes."""
        stacked = torch.stack([value.detach().float().cpu() for value in values])
        means: list[float] = (self._sum(stacked) / self.size if self.size > 1 else stacked).tolist()
        return means

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every parameter's gradient by its mean over all processes; a missing gradient counts as zero."""
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
    """Return whether this process is the only one of its run, or the main one."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def leave_processes() -> None:
    """Disconnect from the other processes of the run, if there are any."""
    from accelerate import PartialState

    if PartialState._shared_state:
        PartialState().destroy_process_group()
