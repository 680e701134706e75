"""The folder of a run: its files and their names, what may be replaced and its log."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from pathlib import Path

from bwlab.config.toml import toml_text
from bwlab.errors import BwlabError
from bwlab.files import LOCK_NAME, UNFINISHED_NAME, make_folder, remove_unfinished, write_atomically
from bwlab.training.config import OutputConfig, TrainConfig
from bwlab.training.settings import read_config
from bwlab.training.tracking import TENSORBOARD

DEFAULT_NAME = OutputConfig().name
STATE_NAME = re.compile(r"step-(\d{6,})\.state\.safetensors")
CHECKPOINT_NAME = re.compile(r"(?P<prefix>.*-)?step-(?P<step>\d{6,})(\.state|-(?P<word>.+))?\.safetensors")
PREVIEW_NAME = re.compile(r"step-(\d{6,})-(\d+)\.png")

# Characters that a file's name cannot hold on one of the common systems.
FORBIDDEN = frozenset('/\\:*?"<>|')
LONGEST_NAME = 200  # of 255 bytes, with room for a step and a word


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
        self._words: tuple[str, ...] = ()  # the trained words, whose embeddings are files of checkpoints
        self.adapter, self.config, self.log = path / f"{name}.safetensors", path / "config.toml", path / "log.jsonl"
        self.previews, self._checkpoints = path / "previews", path / "checkpoints"
        self._opened = False

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
            state = self.checkpoint(step)
            for path, its_step in self._checkpoint_files():
                if its_step == step and path != state:
                    path.unlink()
            state.unlink()  # last: a checkpoint that a killed run has deleted in part is deleted by the next

    def check(self, existing: ExistingRun) -> None:
        """Raise BwlabError if a run may not write into the folder; write nothing."""
        check_name(self._names[0])
        asked = f"--out {self.path}"
        if self.path.exists() and not self.path.is_dir():
            raise BwlabError(asked, "a file, not a folder", "Choose another folder")
        entries = list(self.path.iterdir()) if self.path.exists() else []
        if all(self._is_left_by_killed(path) for path in entries):  # it was killed before it wrote its settings
            if existing is ExistingRun.RESUME and not entries:
                reason = "the folder is empty" if self.path.exists() else "there is no such folder"
                raise BwlabError(asked, f"no run to resume: {reason}", "Choose a run's folder or leave out --resume")
            return
        if existing is ExistingRun.REFUSE:
            raise BwlabError(asked, "the folder is not empty", "Add --resume or --overwrite, or choose another folder")
        if existing is ExistingRun.RESUME and not self.config.is_file():
            raise BwlabError(asked, "no config.toml of a run to resume", "Choose a run's folder or leave out --resume")

    def _is_left_by_killed(self, path: Path) -> bool:
        """Return whether a path in the folder may be left by a run that was killed before it wrote its settings."""
        if path in (self._checkpoints, self.previews) and path.is_dir():
            return all(UNFINISHED_NAME.fullmatch(inner.name) for inner in path.iterdir())
        return path.name == LOCK_NAME or UNFINISHED_NAME.fullmatch(path.name) is not None

    def open(self, config: TrainConfig, existing: ExistingRun, step: int) -> None:
        """Make the folder ready for a run that starts after `step` steps.

        Overwriting removes the files that bwlab wrote and nothing else; resuming cuts the log back to `step`. Files
        that a killed run left unfinished are removed, and checkpoints that it had no time to delete.
        """
        make_folder(self.path)
        former, self._words = self._former_config(), config.tokens.words
        if former is not None:
            self._names = tuple(dict.fromkeys((*self._names, former.output.name)))
            self._words += former.tokens.words
        for folder in (self.path, self._checkpoints, self.previews):
            remove_unfinished(folder)
        if existing is ExistingRun.OVERWRITE:
            for path in list(self._outputs()):
                path.unlink()
        elif self.log.exists():
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            write_atomically(self.log, "".join(f"{line}\n" for line in lines if logged_step(line) <= step).encode())
        write_atomically(self.config, toml_text(config).encode())
        self.prune(config.checkpoint.keep)
        self._opened = True

    def require_present(self) -> None:
        """Raise BwlabError if the folder was deleted or moved since it was opened."""
        if self._opened and not self.config.is_file():
            reason = "the folder or its config.toml was deleted or moved while the run wrote into it"
            raise BwlabError(f"--out {self.path}", reason, "Move it back and add --resume, or start the run again")

    def _outputs(self) -> Iterator[Path]:
        former = self._former_config()
        names = (*self._names, *(former.tokens.words if former is not None else ()))
        files = (self.log, *(self.path / f"{name}.safetensors" for name in names))
        yield from (path for path in files if path.is_file())
        yield from (path for path, _ in self._checkpoint_files())
        yield from (path for path in self.previews.glob("*.png") if PREVIEW_NAME.fullmatch(path.name))
        yield from (self.path / TENSORBOARD).rglob("events.out.tfevents.*")
        if self.config.is_file():
            yield self.config  # last: it names the other files of the run

    def _checkpoint_files(self) -> list[tuple[Path, int]]:
        """Return the files of checkpoints, also of those under the name that the run had before, with their steps.

        A file such as `step-000500-best.safetensors` is one only if `best` is a word that the run trains.
        """
        prefixes, words = {"", *map(checkpoint_prefix, self._names)}, {None, *self._words}
        names = ((path, CHECKPOINT_NAME.fullmatch(path.name)) for path in self._checkpoints.glob("*"))
        own = ((path, name) for path, name in names if name and name["word"] in words)
        return [(path, int(name["step"])) for path, name in own if (name["prefix"] or "") in prefixes]

    def _former_config(self) -> TrainConfig | None:
        """Return the settings of the run in this folder; None if they cannot be read."""
        try:
            return read_config(self.config)
        except BwlabError:
            return None

    def write_log(self, event: str, step: int, **values: float | str) -> None:
        """Append one line to the log; BwlabError if the folder is gone."""
        self.require_present()
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
