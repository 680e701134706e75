"""Training of block-wise adapters and embeddings of new words: settings, loop, checkpoints, previews."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.training.config import TrainConfig
from bwlab.training.run_folder import ExistingRun

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab.plugins.manager import PluginManager

__all__ = ["ExistingRun", "TrainConfig", "train"]


def train(
    config: TrainConfig, manager: PluginManager, console: Console, existing: ExistingRun = ExistingRun.REFUSE
) -> Path:
    """Train the adapter that `config` describes and return the path of its file in `OUT`.

    Args:
        config: all settings of the run.
        manager: the plugins with adapter types, block schemes and hooks of a run.
        console: the console for progress and warnings.
        existing: what to do if there is a run in `OUT` already.

    Raises:
        BwlabError: the settings, the base, the data or the folder are bad, and nothing was written; or the run broke
            off, and its last checkpoint is named.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was saved.

    """
    from bwlab.training.run import run

    return run(config, manager, console, existing)
