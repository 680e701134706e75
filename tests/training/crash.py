"""A short training of the tiny pipeline that is killed and resumed; see `tests.crash`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console

from bwlab.base.load import load_base
from bwlab.dataset.latents import TensorCache
from bwlab.errors import BwlabError
from bwlab.training import check, train
from bwlab.training.outputs import Outputs
from bwlab.training.run_folder import ExistingRun, RunFolder
from bwlab.training.settings import read_config
from bwlab.training.trainer import Trainer
from tests.conftest import save_tiny_pipeline
from tests.crash import Trial
from tests.dataset.small_data import write_image
from tests.kills import Phases
from tests.training.runs import plugins

SETS = (
    *("training.steps=3", "training.batch_size=2", "training.ema=0.9", "adapter.blocks=mid=2, te=2"),
    *("tokens.words=<fox>", "checkpoint.every=2", "checkpoint.keep=1", "preview.every=2", "preview.steps=1"),
)


class TrainingTrial(Trial):
    """A training with an empty cache, checkpoints, previews and a new word."""

    phases: ClassVar[Phases] = {
        "preparing": (),
        "cache": ((TensorCache, "get"),),
        "opening OUT": ((RunFolder, "open"),),
        "step": ((Trainer, "train_step"), (Outputs, "log_step")),
        "checkpoint": ((Outputs, "write_checkpoint"),),
        "preview": ((Outputs, "preview"),),
        "final save": ((Outputs, "write_final"),),
    }

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root, seed)
        base, data = save_tiny_pipeline(root / "base"), root / "data"
        for index, (name, caption) in enumerate({"fox": "ink, <fox>", "owl": "ink, owl"}.items()):
            write_image(data / f"{name}.png", index)
            (data / f"{name}.txt").write_text(caption, encoding="utf-8")
        places = {"base": base, "data.folder": data, "data.cache": self.work / "cache", "out": self.work / "out"}
        self.config = read_config(sets=[*SETS, *(f"{key}={place}" for key, place in places.items())])
        torch.set_num_threads(1)
        load_base(base)  # once for all processes

    def begin(self) -> None:
        """Train with --resume, or without it where that says that there is no run to resume."""
        existing = ExistingRun.RESUME
        try:
            check(self.config, plugins(), existing)
        except BwlabError as error:
            if "no run to resume" not in str(error):
                raise
            existing = ExistingRun.REFUSE
        train(self.config, plugins(), Console(quiet=True), existing)

    def same(self, one: Path, other: Path) -> bool:
        """Return whether two files hold the same bytes, and two logs the same steps."""
        return same_steps(one, other) if one.name == "log.jsonl" else one.read_bytes() == other.read_bytes()


def same_steps(log: Path, other: Path) -> bool:
    """Return whether two logs have the same steps with the same numbers but for the time that they took."""
    logs = ([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in (log, other))
    steps, others = ([{**line, "seconds": 0} for line in lines if line["event"] == "step"] for lines in logs)
    return steps == others
