"""A stopped training whose state is broken: half of the broken states have a right checksum, so that they are read."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
from rich.console import Console
from safetensors import SafetensorError

from bwlab.files import CHECKSUM, checksum
from bwlab.plugins.manager import build_manager
from bwlab.training import train
from bwlab.training.run_folder import ExistingRun
from bwlab.training.settings import read_config
from bwlab.training.state import HEADER
from tests.conftest import save_tiny_pipeline
from tests.dataset.small_data import write_image
from tests.fuzz.mutations import FLOATS, JSON_VALUES, NOT_FINITE, TEXTS, mutated
from tests.fuzz.raw import RawFile, copied

STATE = "out/checkpoints/step-000001.state.safetensors"
LATER = ("out/checkpoints/step-000002", "out/adapter.")
SETS = (
    *("training.steps=2", "training.batch_size=2", "adapter.blocks=mid=2", "training.ema=0.9", "checkpoint.every=1"),
    *("preview.enabled=false", "training.device=cpu"),
)


class StoppedRun:
    """A training of two steps that was stopped after the first one.

    Attributes:
        files: the path of each file of its folder -> bytes.
        state: the bytes of its whole state.

    """

    def __init__(self, root: Path, folder: Path) -> None:
        """Train; the base and the images are in `root`, and what the run writes is in `folder`."""
        base, data = save_tiny_pipeline(root / "base"), root / "data"
        for index, caption in enumerate(("ink, fox", "ink, owl")):
            write_image(data / f"{index}.png", index)
            (data / f"{index}.txt").write_text(caption, encoding="utf-8")
        places = f"base={base}", f"data.folder={data}", f"data.cache={folder / 'cache'}", f"out={folder / 'out'}"
        train(read_config(sets=[*SETS, *places]), build_manager(), Console(quiet=True), ExistingRun.REFUSE)
        self.state, self._raw = (folder / STATE).read_bytes(), RawFile.read(folder / STATE)
        paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        self.files = {name: path.read_bytes() for name, path in paths.items() if not name.startswith(LATER)}

    def broken_state(self, random: Random) -> bytes:
        """Return the training state with changes of its tensors, of its metadata, or of numbers in these."""
        state = copied(self._raw)
        if random.random() < 0.5:
            header = json.loads(state.metadata[HEADER])
            _change(header, random)
            state.metadata = {HEADER: json.dumps(header)}
        content = state.to_bytes() if random.random() < 0.3 else mutated(state, random)
        return _signed(content) if random.random() < 0.5 else content


def _change(value: Any, random: Random) -> None:
    """Replace one entry of a nested document in place."""
    while True:
        key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if not (isinstance(value[key], dict | list) and value[key] and random.random() < 0.8):
            break
        value = value[key]
    value[key] = random.choice((*JSON_VALUES, *FLOATS, *NOT_FINITE, *TEXTS))


def _signed(content: bytes) -> bytes:
    """Return a state with the checksum of what it holds; as it is if nobody can read it."""
    with contextlib.suppress(SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][HEADER])
        header.pop(CHECKSUM, None)
        header[CHECKSUM] = checksum(tensors, json.dumps(header))
        return safetensors.torch.save(tensors, {HEADER: json.dumps(header)})
    return content
