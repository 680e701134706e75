"""CPU seconds and memory of training steps."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers import Contestant, ForwardOnly

M_MMAP_THRESHOLD = -3  # from glibc's malloc.h
LARGE = 1 << 18  # bytes


class Stepper:
    """A training step of a contestant with its optimiser; a call runs one step."""

    def __init__(self, contestant: Contestant) -> None:
        setting = contestant.setting
        self.contestant, self._inputs = contestant, setting.inputs()
        self._target = setting.target(self._inputs)
        self._autocast = setting.precision != "fp32"
        parameters = contestant.parameters
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True) if parameters else None
        setting.noisy(self._inputs).requires_grad_(contestant.graph_from_input)

    def __call__(self) -> None:
        """Run forward pass, backward pass and optimiser."""
        if isinstance(self.contestant, ForwardOnly):
            with torch.no_grad():
                self._predict(self.contestant.denoiser)
            return
        functional.mse_loss(self._predict(self.contestant.denoiser).float(), self._target).backward()
        if self._optimizer:
            self._optimizer.step()
            self._optimizer.zero_grad()

    def _predict(self, denoiser: nn.Module) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            prediction: Tensor = denoiser(**self._inputs)[0]
        return prediction


def cpu_seconds(contestants: Sequence[Contestant], repeats: int) -> list[list[float]]:
    """Return the CPU seconds (all threads) of each of `repeats` steps, in the order of the contestants.

    The contestants take turns, A B C C B A, so that a busy machine slows all alike, and none always comes after the one
    that leaves the most memory; a first round, which makes the kernels and the optimisers' state, is not counted.
    """
    steppers = [Stepper(contestant) for contestant in contestants]
    seconds: list[list[float]] = [[] for _ in contestants]
    for turn in range(repeats + 1):
        pairs = list(zip(steppers, seconds, strict=True))
        for stepper, own in pairs if turn % 2 else reversed(pairs):
            with stepper.contestant.attached():
                began = time.process_time()
                stepper()
                taken = time.process_time() - began
            if turn:
                own.append(taken)
    return seconds


def peak_memory(make: Callable[[], Contestant], steps: int = 2) -> float:
    """Return the peak of resident memory over `steps` steps above that before them, in megabytes (10^6 bytes).

    A first step, which makes the optimiser's state, comes before both. To be called in a process of its own, Linux
    only: the kernel keeps the highest mark and lets one set it back. Large tensors get pages of their own, so that
    those that were freed do not count; glibc's default keeps many of them, for all contestants alike.
    """
    give_large_tensors_pages()
    contestant = make()
    with contestant.attached():
        return highest_memory(Stepper(contestant), steps)


def highest_memory(step: Callable[[], object], steps: int = 2) -> float:
    """Return the highest resident memory of some calls above that before them; see `peak_memory`."""
    step()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in range(steps):
        step()
    return resident("VmHWM") - before


def give_large_tensors_pages() -> None:
    """Let glibc give large tensors pages of their own, which go back to the system with them."""
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, LARGE)


def resident(field: str) -> float:
    """Return a field of /proc/self/status (`VmRSS`, `VmHWM`) in megabytes (10^6 bytes)."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024 / 1e6
