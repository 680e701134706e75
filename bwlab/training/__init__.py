"""Training of block-wise adapters: configuration, data, caches, loop, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.training.config import TrainConfig
from bwlab.training.run_folder import ExistingRun

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab.plugins.manager import PluginManager

__all__ = ["ExistingRun", "TrainConfig", "train"]


def train(config: TrainConfig, manager: PluginManager, console: Console, existing: ExistingRun = ExistingRun.REFUSE) -> Path:
    """Train the adapter that `config` describes and return the path of `OUT/adapter.safetensors`.

    Args:
        config: what to train, on what, where to.
        manager: the plugins that give adapter types and block schemes and hear of the run.
        console: where progress and warnings are drawn.
        existing: what to do with a run that is already in `OUT`.

    Raises:
        BwlabError: bad settings, base, data or folder (nothing was written yet), or a run that could not go on
            (its last checkpoint is named).
        KeyboardInterrupt: Ctrl-C, after a checkpoint was saved.

    """
    from bwlab.training.run import run

    return run(config, manager, console, existing)
