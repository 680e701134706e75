"""Commands and images of the tests of model families."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bwlab.cli.app import main

PROMPT = "a red square"
FEW = ("--samples", 2, "--steps", 2, "--timesteps", 601, "--latents", 2, "--random", 1)
"""Options of a conflict that is measured on little."""


def command(*arguments: object) -> int:
    """Run a command and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def run(*arguments: object) -> None:
    """Run a command, which must succeed."""
    assert command(*arguments) == 0


def pixels(image: object) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def losses_of(folder: Path) -> list[float]:
    """Return the loss of each step of a run."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]
