"""Short runs on the tiny pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
from rich.console import Console
from torch import Tensor

import bwlab.plugins.builtin
import bwlab_locon.plugin
import bwlab_lora.plugin
from bwlab.plugins.manager import PluginManager, build_manager
from bwlab.training import train
from bwlab.training.config import TrainConfig
from bwlab.training.run_folder import ExistingRun
from bwlab.training.settings import read_config

SHORT = (
    "adapter.blocks=all=2",
    "training.batch_size=2",
    "preview.enabled=false",
    "checkpoint.every=0",
)


def plugins(*further: object) -> PluginManager:
    """Return the built-in adapter types and block schemes, and the plugins given."""
    return build_manager([bwlab_lora.plugin, bwlab_locon.plugin, bwlab.plugins.builtin, *further], installed=False)


def short_config(base: Path, data: Path, out: Path, *sets: str) -> TrainConfig:
    """Return a run without previews and checkpoints in between, but for what `sets` say."""
    return read_config(sets=[*SHORT, f"base={base}", f"data.folder={data}", f"out={out}", *sets])


def run(
    config: TrainConfig, *further: object, existing: ExistingRun = ExistingRun.REFUSE, console: Console | None = None
) -> Path:
    """Train quietly and return the adapter's path."""
    return train(config, plugins(*further), console or Console(quiet=True), existing)


def same_tensors(one: Path, other: Path) -> bool:
    """Return whether two safetensors files hold the same keys and the same bytes."""
    first, second = safetensors.torch.load_file(one), safetensors.torch.load_file(other)
    return first.keys() == second.keys() and all(same_bytes(first[key], second[key]) for key in first)


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same kind, shape and bytes."""
    same_form = one.dtype == other.dtype and one.shape == other.shape
    return same_form and one.numpy().tobytes() == other.numpy().tobytes()


def files_in(folder: Path) -> Sequence[str]:
    """Return the relative paths of all files below a folder, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
