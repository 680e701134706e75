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
from bwlab.training.config import OutputConfig, TrainConfig
from bwlab.training.settings import read_config
from bwlab.training.tracking import TENSORBOARD

DEFAULT_NAME = OutputConfig().name
STATE_NAME = re.compile(r"step-(\d{6,})\.state\.safetensors")
CHECKPOINT_NAME = re.compile(r"(?P<prefix>.*-)?step-(?P<step>\d{6,})(\.state|-.+)?\.safetensors")
PREVIEW_NAME = re.compile(r"step-(\d{6,})-(\d+)\.png")
UNFINISHED_NAME = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")

# Characters that a file's name cannot hold on one of the common systems.
FORBIDDEN = frozenset('/\\:*?"<>|')
LONGEST_NAME = 200  # of 255 bytes, with room for a step and a word

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
        name: name of the adapter file without its extension.

    """

    def __init__(self, path: Path, name: str = DEFAULT_NAME) -> None:
        self.path = path
        self._names: tuple[str, ...] = (name,)
        self.adapter, self.config, self.log = path / f"{name}.safetensors", path / "config.toml", path / "log.jsonl"
        self.previews, self._checkpoints = path / "previews", path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Return the path of the training state after `step` steps, the last file of a checkpoint to be written."""
        return self._checkpoints / f"step-{step:06}.state.safetensors"

    def checkpoint_adapter(self, step: int) -> Path:
        """Return the path of the adapter file after `step` steps."""
        return self._checkpoints / f"{checkpoint_prefix(self._names[0])}step-{step:06}.safetensors"

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
            for path, its_step in self._checkpoint_files():
                if its_step == step:
                    path.unlink()

    def check(self, existing: ExistingRun) -> None:
        """Raise BwlabError if a run may not write into the folder; write nothing."""
        check_name(self._names[0])
        asked = f"--out {self.path}"
        if self.path.exists() and not self.path.is_dir():
            raise BwlabError(asked, "a file, not a folder", "Choose another folder")
        if not self.path.exists() or all(path.name == LOCK_NAME for path in self.path.iterdir()):
            if existing is ExistingRun.RESUME:
                reason = "the folder is empty" if self.path.exists() else "there is no such folder"
                raise BwlabError(asked, f"no run to resume: {reason}", "Choose a run's folder or leave out --resume")
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
        former = self._former_config()
        if former is not None:
            self._names = tuple(dict.fromkeys((*self._names, former.output.name)))
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
        former = self._former_config()
        names = (*self._names, *(former.tokens.words if former is not None else ()))
        files = (self.config, self.log, *(self.path / f"{name}.safetensors" for name in names))
        yield from (path for path in files if path.is_file())
        yield from (path for path, _ in self._checkpoint_files())
        yield from (path for path in self.previews.glob("*.png") if PREVIEW_NAME.fullmatch(path.name))
        yield from (self.path / TENSORBOARD).rglob("events.out.tfevents.*")

    def _checkpoint_files(self) -> list[tuple[Path, int]]:
        """Return the files of checkpoints, also of those under the name that the run had before, with their steps."""
        prefixes = {"", *map(checkpoint_prefix, self._names)}
        names = ((path, CHECKPOINT_NAME.fullmatch(path.name)) for path in self._checkpoints.glob("*"))
        return [(path, int(name["step"])) for path, name in names if name and (name["prefix"] or "") in prefixes]

    def _former_config(self) -> TrainConfig | None:
        """Return the settings of the run in this folder; None if they cannot be read."""
        try:
            return read_config(self.config)
        except BwlabError:
            return None

    def write_log(self, event: str, step: int, **values: float | str) -> None:
        """Append one line to the log."""
        record = {"event": event, "step": step, **values}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def folder_of(config: TrainConfig) -> RunFolder:
    """Return the folder of a run; BwlabError if none is given."""
    if not config.out:
        raise BwlabError("bwlab train", "no folder for the run given", "Give one with --out DIR")
    return RunFolder(Path(config.out), config.output.name)


def checkpoint_prefix(name: str) -> str:
    """Return the beginning of the names of checkpoints' adapters: none unless the run has a name of its own."""
    return "" if name == DEFAULT_NAME else f"{name}-"


def check_name(name: str) -> None:
    """Raise BwlabError unless an adapter file can have this name."""
    asked, fix = f"output.name = {name!r}", "Give a name such as fox"
    bad = sorted(FORBIDDEN & set(name)) or [character for character in name if not character.isprintable()]
    if not name.strip() or bad or name.startswith("."):
        reason = f"it holds {bad[0]!r}" if bad else "it starts with a dot" if name.strip() else "it is empty"
        raise BwlabError(asked, reason, f"{fix}; --out gives the folder" if bad else fix)
    if name.endswith(".safetensors"):
        raise BwlabError(asked, "the extension is added to it", f"Give {name.removesuffix('.safetensors')}")
    if len(name.encode()) > LONGEST_NAME:
        raise BwlabError(asked, f"it is longer than {LONGEST_NAME} bytes", "Give a shorter name")


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
