"""Training sets of the tiny bases."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bwlab.base.load import weights_hash
from bwlab.dataset.training_set import TrainingSet
from bwlab.training.config import TrainConfig
from bwlab.training.data import load_training_set
from bwlab.training.settings import read_config

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


def settings(data: Path | None, *sets: str) -> TrainConfig:
    """Return the settings of a run on a folder."""
    return read_config(sets=[f"data.folder={data}", *sets] if data else sets)


def load(config: TrainConfig, pipe: Pipeline) -> tuple[TrainingSet, str]:
    """Return the training set and what was printed."""
    printed = io.StringIO()
    data = load_training_set(config, pipe, Console(file=printed, width=300), weights_hash(pipe))
    return data, printed.getvalue()


def entries(folder: Path) -> list[Path]:
    """Return the files of a cache."""
    return sorted(folder.rglob("*.safetensors"))
