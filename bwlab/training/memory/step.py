"""The memory of a training step, counted in a step that is taken with shapes alone.

The step runs bwlab's own code (adapters, `training_graph`) on fake tensors, which have a shape and a dtype and no
numbers. Every storage that an operation makes is counted from when it is made until nothing refers to it, autograd's
graph included. What libraries allocate inside an operation is not seen.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from torch import UntypedStorage

WIDE_ON_GPUS = ("layer_norm", "group_norm")
"""Functions that autocast computes in float32 on GPUs; on CPUs it does not."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a step needs above what is held between steps.

    Attributes:
        kept: what the forward pass keeps for the backward pass, at its end.
        peak: the most at any time, gradients included.
        gradients: gradients of what is trained, at the end.

    """

    kept: int
    peak: int
    gradients: int


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of the storages that operations make while it is active, for as long as each exists."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it has made."""
        given = {id(leaf.untyped_storage()) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


@contextmanager
def wide_norms() -> Iterator[None]:
    """Compute norms of half-precision numbers in float32 inside the `with` block, as autocast does on GPUs."""
    plain = {name: getattr(F, name) for name in WIDE_ON_GPUS}
    try:
        for name, function in plain.items():
            setattr(F, name, _in_float32(function))
        yield
    finally:
        for name, function in plain.items():
            setattr(F, name, function)


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wide(*args: Any, **kwargs: Any) -> Tensor:
        args, kwargs = pytree.tree_map_only(Tensor, Tensor.float, (args, kwargs))
        return function(*args, **kwargs)

    return wide


def step_memory(predict: Callable[[], Tensor], target: Tensor, trained: list[nn.Parameter], gpu: bool) -> StepMemory:
    """Return the memory of a forward and backward pass on fake tensors.

    Args:
        predict: runs the denoiser with adapters attached, inside the context in which a step is taken.
        target: of the prediction.
        trained: the parameters that get gradients.
        gpu: whether norms are computed as autocast does on GPUs.

    """
    counter = LiveStorages()
    with counter, wide_norms() if gpu else nullcontext():
        loss = F.mse_loss(predict().float(), target)
        kept = counter.live
        loss.backward()
        del loss
    gradients = sum(math.prod(p.grad.shape) * p.grad.element_size() for p in trained if p.grad is not None)
    return StepMemory(kept, counter.peak, gradients)
