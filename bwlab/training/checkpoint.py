"""Checkpoints: all that a run needs to go on bit for bit.

One safetensors file each: the adapter's own tensors (not folded as in ``adapter.safetensors``), the optimiser's state,
and in its header the step and the settings that must not change. Generators need no state: see
`bwlab.training.randomness`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.errors import BwlabError
from bwlab.formats.atomic import write_atomically
from bwlab.formats.folders import make_folder

HEADER = "bwlab.checkpoint"
ADAPTER, OPTIMIZER = "adapter/", "optimizer/"


@dataclass(frozen=True)
class Checkpoint:
    """A run at one step.

    Attributes:
        step: optimiser steps taken.
        tensors: the adapter's and the optimiser's, by key.
        settings: what must be the same to go on.
        scaler: state of the gradient scaler (fp16 only).
    """

    step: int
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, str]
    scaler: Mapping[str, float]


def capture(
    step: int,
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, str],
    scaler: Mapping[str, float],
) -> Checkpoint:
    """Return the run as it stands; the tensors are copies on the CPU.

    Raises:
        BwlabError: a weight is NaN or infinite, so nothing good could be saved.
    """
    tensors = {f"{ADAPTER}{name}": tensor for name, tensor in adapter_state(adapter)}
    broken = next((key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)
    if broken is not None:
        raise BwlabError(f"checkpoint at step {step}", f"{broken} is not finite", "Lower training.lr")
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
    copies = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
    return Checkpoint(step, copies, settings, scaler)


def adapter_state(adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    """Yield (``path:name``, tensor) of every parameter and buffer."""
    for path, layer in adapter.layers.items():
        for name, tensor in layer.state_dict().items():
            yield f"{path}:{name}", tensor


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint whole or not at all; BwlabError if it cannot be written."""
    header = {"step": checkpoint.step, "settings": dict(checkpoint.settings), "scaler": dict(checkpoint.scaler)}
    make_folder(path.parent)
    write_atomically(path, save(dict(checkpoint.tensors), {HEADER: json.dumps(header)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file; BwlabError if it is damaged or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        return Checkpoint(header["step"], tensors, header["settings"], header["scaler"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = f"not a whole checkpoint ({str(error).splitlines()[0]})"
        raise BwlabError(f"checkpoint {path}", reason, "Delete it to resume from the one before") from error


def restore(checkpoint: Checkpoint, adapter: Adapter, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's numbers into a fresh adapter and optimiser, in place.

    Raises:
        BwlabError: it was saved with other blocks, ranks or another adapter type.
    """
    saved = {key.removeprefix(ADAPTER): t for key, t in checkpoint.tensors.items() if key.startswith(ADAPTER)}
    own = dict(adapter_state(adapter))
    if {key: tensor.shape for key, tensor in saved.items()} != {key: tensor.shape for key, tensor in own.items()}:
        raise BwlabError("--resume", "the checkpoint holds other layers or ranks", "Train in another folder")
    for path, layer in adapter.layers.items():
        start = f"{path}:"
        layer.load_state_dict({key.removeprefix(start): t for key, t in saved.items() if key.startswith(start)})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in checkpoint.tensors.items():
        if key.startswith(OPTIMIZER):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def check_settings(checkpoint: Checkpoint, settings: Mapping[str, str]) -> None:
    """Raise BwlabError naming the first setting that differs from when the checkpoint was saved."""
    for key in sorted(settings.keys() | checkpoint.settings.keys()):
        before, now = checkpoint.settings.get(key), settings.get(key)
        if before != now:
            found = f"{key} is {now}, but was {before} when step {checkpoint.step} was saved"
            raise BwlabError("--resume", found, "Set it back, or train in another folder")
