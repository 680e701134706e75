"""Training states: all that a run needs to be resumed bit for bit, in one safetensors file each.

A file holds the trained parameters (not folded as in `adapter.safetensors`), their moving average and the optimiser's
state, and in its header the step, the settings that must stay the same, and a checksum of it all. Generators and
schedules have no state: see `bwlab.dataset.order` and `bwlab.training.trainable`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bwlab.errors import BwlabError, first_line
from bwlab.files import CHECKSUM, checksum, make_folder, write_atomically
from bwlab.formats.torch_tensors import file_bytes

HEADER = "bwlab.checkpoint"
OTHER_FOLDER = "Train in another folder"
MEANS = frozenset({"exp_avg", "exp_avg_sq"})
"""Tensors that PyTorch's own optimisers keep in the shape of their parameter."""
TRAINABLE, OPTIMIZER, AVERAGE = "trainable/", "optimizer/", "average/"

Group = Mapping[str, float | int | bool | None]


@dataclass(frozen=True)
class TrainingState:
    """A run at one step.

    Attributes:
        step: number of optimiser steps taken.
        tensors: tensors of the trained parameters, the optimiser and the moving average, by key.
        groups: the numbers of the optimiser's groups; Prodigy keeps the rate it has found there.
        settings: settings that must be the same to resume the run.
        scaler: state of the gradient scaler (fp16 only).

    """

    step: int
    tensors: Mapping[str, Tensor]
    groups: Sequence[Group]
    settings: Mapping[str, str]
    scaler: Mapping[str, float]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors of one part by their keys within it."""
        return {key.removeprefix(prefix): t for key, t in self.tensors.items() if key.startswith(prefix)}


def require_finite(step: int, state: Mapping[str, Tensor]) -> None:
    """Raise BwlabError if a trained parameter is NaN or infinite."""
    broken = next((key for key, tensor in state.items() if not bool(tensor.isfinite().all())), None)
    if broken is not None:
        raise BwlabError(f"checkpoint at step {step}", f"{broken} is not finite", "Lower training.lr")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state by `index/name`, and by `index/name/part` where a state has parts."""
    return {key: torch.as_tensor(value) for key, value in _parts(optimizer.state_dict()["state"], "")}


def _parts(state: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _parts(value, f"{prefix}{name}/")
        elif value is not None:
            yield f"{prefix}{name}", value


def optimizer_groups(optimizer: torch.optim.Optimizer) -> list[Group]:
    """Return the plain numbers of an optimiser's groups."""
    kinds = (bool, int, float, type(None))
    return [
        {name: value for name, value in group.items() if isinstance(value, kinds)}
        for group in optimizer.state_dict()["param_groups"]
    ]


def load_optimizer(saved: TrainingState, optimizer: torch.optim.Optimizer) -> None:
    """Put a saved optimiser state into a fresh optimiser of the same parameters, in place.

    Raises:
        BwlabError: the state is that of another optimiser, or of other parameters.

    """
    try:
        _load(saved, optimizer)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        found = f"the state of the optimiser in the checkpoint does not fit ({first_line(error)})"
        raise BwlabError("--resume", found, OTHER_FOLDER) from error


def _load(saved: TrainingState, optimizer: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in saved.part(OPTIMIZER).items():
        index, *names, last = key.split("/")
        part = state.setdefault(int(index), {})
        for name in names:
            part = part.setdefault(name, {})
        # Counters are whole numbers in Python, not tensors.
        whole = tensor.dim() == 0 and not tensor.is_floating_point()
        part[last] = int(tensor) if whole else tensor
    groups = optimizer.state_dict()["param_groups"]
    for group, numbers in zip(groups, saved.groups, strict=True):
        _require_alike(numbers, group)
        group.update(numbers)
    if type(optimizer).__module__.startswith("torch.optim"):
        parameters: list[Tensor] = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        means = MEANS & {name for values in state.values() for name in values}
        for place, values in state.items():
            _require_means(values, means, tuple(parameters[place].shape))
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _require_alike(saved: Group, own: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting of a parameter group that is of another kind than the optimiser's own."""
    for name, value in saved.items():
        kinds = {_kind(number) for number in (value, own.get(name)) if number is not None}
        if len(kinds) > 1 or not kinds <= {bool, float}:
            raise ValueError(f"{name} is of another kind than the optimiser's")


def _kind(value: object) -> type:
    return float if type(value) is int else type(value)


def _require_means(values: Mapping[str, Any], names: Iterable[str], shape: tuple[int, ...]) -> None:
    """Raise ValueError for a mean of gradients that is missing or of another shape, which PyTorch would broadcast."""
    for name in sorted(names):
        if name not in values:
            raise ValueError(f"{name} is missing")
        if tuple(values[name].shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(values[name].shape)}, and its parameter {shape}")


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors on the CPU."""
    return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}


def save_state(state: TrainingState, path: Path) -> None:
    """Write a training state whole or not at all; BwlabError if it cannot be written."""
    header = {
        "step": state.step,
        "groups": [dict(group) for group in state.groups],
        "settings": dict(state.settings),
        "scaler": dict(state.scaler),
    }
    # One entry of metadata: safetensors writes several in an order that differs from process to process.
    whole = {**header, CHECKSUM: checksum(state.tensors, json.dumps(header))}
    make_folder(path.parent)
    write_atomically(path, file_bytes(state.tensors, {HEADER: json.dumps(whole)}))


def load_state(path: Path) -> TrainingState:
    """Return the training state in a file; BwlabError if the file is damaged or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])  # Prodigy's groups may hold infinity
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        if header.pop(CHECKSUM) != checksum(tensors, json.dumps(header)):
            raise ValueError("its checksum is another: it was changed since it was saved")
        return _checked(TrainingState(header["step"], tensors, header["groups"], header["settings"], header["scaler"]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = f"not a whole checkpoint ({first_line(error)})"
        raise BwlabError(f"checkpoint {path}", reason, "Delete it to resume from the one before") from error


def _checked(state: TrainingState) -> TrainingState:
    """Return a state; ValueError if an entry of its header is of another kind."""
    groups = state.groups if isinstance(state.groups, list) else [None]
    tables = (state.settings, state.scaler, *groups)
    if type(state.step) is not int or state.step < 0 or not all(isinstance(table, dict) for table in tables):
        raise ValueError("its header is not that of a training state")
    return state


def check_settings(state: TrainingState, settings: Mapping[str, str]) -> None:
    """Raise BwlabError naming the first setting that differs from when the state was saved."""
    for key in sorted(settings.keys() | state.settings.keys()):
        before, now = state.settings.get(key), settings.get(key)
        if before != now:
            reason = f"{key} is {now}, but was {before} when step {state.step} was saved"
            raise BwlabError("--resume", reason, "Set it back, or train in another folder")
