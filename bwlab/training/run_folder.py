"""The folder of a run: its files and their names, what may be replaced, its log and its lock."""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bwlab.config.toml import toml_text
from bwlab.errors import BwlabError
from bwlab.files import make_folder, write_atomically
from bwlab.training.config import TrainConfig
from bwlab.training.settings import read_config
from bwlab.training.tracking import TENSORBOARD

OWN_FILES = ("adapter.safetensors", "config.toml", "log.jsonl")
STATE_NAME = re.compile(r"step-(\d{6,})\.state\.safetensors")
CHECKPOINT_NAME = re.compile(r"step-(\d{6,})(\.state|-.+)?\.safetensors")
PREVIEW_NAME = re.compile(r"step-(\d{6,})-(\d+)\.png")
UNFINISHED_NAME = re.compile(r"\.(adapter|config|log|step-\d{6,}).*\.[0-9a-f]{32}\.tmp")

LOCK_NAME = ".lock"


class ExistingRun(enum.Enum):
    """What to do if there is a run in the folder already."""

    REFUSE = "refuse"
    RESUME = "resume"
    OVERWRITE = "overwrite"


class RunFolder:
    """`OUT`: `adapter.safetensors`, `config.toml`, `log.jsonl`, `previews/`, `checkpoints/`.

    Args:
        path: the folder; nothing is written before `open`.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapter, self.config, self.log = (path / name for name in OWN_FILES)
        self.previews, self._checkpoints = path / "previews", path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Return the path of the training state after `step` steps, the last file of a checkpoint to be written."""
        return self._checkpoints / f"step-{step:06}.state.safetensors"

    def checkpoint_adapter(self, step: int) -> Path:
        """Return the path of the adapter file after `step` steps."""
        return self._checkpoints / f"step-{step:06}.safetensors"

    def preview(self, step: int, index: int) -> Path:
        """Return the path of one preview image."""
        return self.previews / f"step-{step:06}-{index}.png"

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of the checkpoints, ascending."""
        names = (STATE_NAME.fullmatch(path.name) for path in self._checkpoints.glob("*"))
        return sorted(int(name[1]) for name in names if name)

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints."""
        for step in self.checkpoint_steps()[:-keep]:
            self.checkpoint(step).unlink(missing_ok=True)
            for path in self._checkpoint_files():
                if path.name.startswith((f"step-{step:06}.", f"step-{step:06}-")):
                    path.unlink()

    def check(self, existing: ExistingRun) -> None:
        """Raise BwlabError if a run may not write into the folder; write nothing."""
        asked = f"--out {self.path}"
        if self.path.exists() and not self.path.is_dir():
            raise BwlabError(asked, "a file, not a folder", "Choose another folder")
        if not self.path.exists() or all(path.name == LOCK_NAME for path in self.path.iterdir()):
            return
        if existing is ExistingRun.REFUSE:
            raise BwlabError(asked, "the folder is not empty", "Add --resume or --overwrite, or choose another folder")
        if existing is ExistingRun.RESUME and not self.config.is_file():
            raise BwlabError(asked, "no config.toml of a run to resume", "Choose a run's folder or leave out --resume")

    def open(self, config: TrainConfig, existing: ExistingRun, step: int) -> None:
        """Make the folder ready for a run that starts after `step` steps.

        Overwriting removes the files that bwlab wrote and nothing else; resuming cuts the log back to `step`. Files
        that a killed run left unfinished are removed.
        """
        make_folder(self.path)
        for folder in (self.path, self._checkpoints, self.previews):
            for path in folder.glob(".*.tmp"):
                if UNFINISHED_NAME.fullmatch(path.name):
                    path.unlink()
        if existing is ExistingRun.OVERWRITE:
            for path in list(self._outputs()):
                path.unlink()
        elif self.log.exists():
            kept = [line for line in self.log.read_text(encoding="utf-8").splitlines() if logged_step(line) <= step]
            write_atomically(self.log, "".join(f"{line}\n" for line in kept).encode())
        write_atomically(self.config, toml_text(config).encode())

    def _outputs(self) -> Iterator[Path]:
        embeddings = (self.path / f"{word}.safetensors" for word in self._words())
        yield from (path for path in (self.adapter, self.config, self.log, *embeddings) if path.is_file())
        yield from self._checkpoint_files()
        yield from (path for path in self.previews.glob("*.png") if PREVIEW_NAME.fullmatch(path.name))
        yield from (self.path / TENSORBOARD).rglob("events.out.tfevents.*")

    def _checkpoint_files(self) -> list[Path]:
        return [path for path in self._checkpoints.glob("*") if CHECKPOINT_NAME.fullmatch(path.name)]

    def _words(self) -> tuple[str, ...]:
        """Return the new words of the run in this folder; none if its settings cannot be read."""
        try:
            return read_config(self.config).tokens.words
        except BwlabError:
            return ()

    def write_log(self, event: str, step: int, **values: float | str) -> None:
        """Append one line to the log."""
        record = {"event": event, "step": step, **values}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def logged_step(line: str) -> float:
    """Return the step of a log line; infinity for a line that a killed run left unfinished."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class RunLock:
    """A lock on a run's folder, held for a `with` block and released with the process, however it ends.

    The operating system holds the lock, not the file: the lock file of a killed run locks nothing.

    Args:
        folder: the folder of the run; made if it does not exist.

    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / LOCK_NAME
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the lock; BwlabError naming the process that holds it."""
        make_folder(self._folder)
        while self._file is None:
            file = self._path.open("a+", encoding="utf-8")
            if not try_lock(file):
                file.seek(0)
                holder = file.read().strip() or "unknown"
                file.close()
                reason = f"another run (process {holder}) is writing there"
                raise BwlabError(f"--out {self._folder}", reason, "Wait for it, or choose another folder")
            if self._is_at_path(file):
                self._file = file
            else:  # another run deleted the file between opening and locking
                file.close()
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _is_at_path(self, file: IO[str]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False


def try_lock(file: IO[str]) -> bool:
    """Lock an open file and return whether that worked; always true on systems without such locks."""
    try:
        import fcntl
    except ImportError:  # Windows, where two runs in one folder are not detected
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
