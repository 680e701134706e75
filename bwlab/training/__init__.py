"""Training of block-wise adapters and embeddings of new words: settings, loop, checkpoints, previews."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.training.config import TrainConfig
from bwlab.training.run_folder import ExistingRun, folder_of
from bwlab.training.settings import check_model, check_settings

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab.plugins.manager import PluginManager

__all__ = ["ExistingRun", "TrainConfig", "check", "dry_run", "plan_memory", "train"]


def check(config: TrainConfig, manager: PluginManager, existing: ExistingRun = ExistingRun.REFUSE) -> None:
    """Raise BwlabError for mistakes in settings, names, folders and files that show without the base's weights.

    It takes a moment, as it imports neither torch nor diffusers; `train` and `dry_run` begin with it.
    """
    folder_of(config).check(existing)
    check_settings(config, manager)


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
    check(config, manager, existing)
    from bwlab.training.run import run

    return run(config, manager, console, existing)


def dry_run(
    config: TrainConfig, manager: PluginManager, console: Console, existing: ExistingRun = ExistingRun.REFUSE
) -> None:
    """Check what `config` describes as far as that needs no computation, and print the summary of the run.

    The base and the headers of the data are read; no image is encoded and nothing is written.

    Args:
        config: all settings of the run.
        manager: the plugins with adapter types, optimisers and block schemes.
        console: the console for the summary.
        existing: what a run would do if there is a run in `OUT` already.

    Raises:
        BwlabError: the settings, the base, the data or the folder are bad.

    """
    check(config, manager, existing)
    from bwlab.training.run import dry_run as show

    show(config, manager, console, existing)


def plan_memory(config: TrainConfig, manager: PluginManager, console: Console) -> None:
    """Print what a training with these settings needs in memory, computed from shapes alone.

    No weights are read, and nothing is written. Images, captions and the folder of the run are not read.

    Args:
        config: all settings; the base may also be a name that `bwlab blocks` knows, such as `flux`.
        manager: the plugins with adapter types, optimisers, block schemes and model families.
        console: the console for the tables.

    Raises:
        BwlabError: there is no such base, no family trains it, or what is trained is wrong.

    """
    check_model(config, manager)
    from bwlab.tables import print_table
    from bwlab.training.memory.plan import memory_plan, plan_tables

    for table in plan_tables(memory_plan(config, manager), config):
        print_table(console, table)
