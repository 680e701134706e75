"""A training run from its configuration to the adapter file."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import torch
from rich.console import Console

from bwlab.adapters.save import block_ranks
from bwlab.errors import BwlabError
from bwlab.plugins.events import CheckpointRecord, FinishRecord, RunRecord
from bwlab.training.config import TrainConfig
from bwlab.training.outputs import Outputs
from bwlab.training.prepare import TrainingSetup, prepare
from bwlab.training.run_folder import ExistingRun, RunFolder, RunLock
from bwlab.training.state import load_checkpoint
from bwlab.training.tracking import TrainingBar
from bwlab.training.trainer import Trainer

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager


LAST_LOSSES = 100

SAME_PRESS = 1.0  # seconds


def run(config: TrainConfig, manager: PluginManager, console: Console, existing: ExistingRun) -> Path:
    """Train and return the path of the adapter file; see `bwlab.training.train`."""
    if not config.out:
        raise BwlabError("bwlab train", "no folder for the run given", "Give one with --out DIR")
    folder = RunFolder(Path(config.out))
    folder.check(existing)
    prepared = prepare(config, manager, console)
    return Run(config, folder, prepared, manager, console).finish(existing)


class Run:
    """A prepared run and its folder.

    Of several processes only the main one writes, draws and tells plugins; the others wait for it.

    Args:
        config: all settings.
        folder: where it writes.
        prepared: the base, what is trained and the data.
        manager: plugins that hear of it.
        console: where the bar is drawn.

    """

    def __init__(
        self, config: TrainConfig, folder: RunFolder, prepared: TrainingSetup, manager: PluginManager, console: Console
    ) -> None:
        self.config, self.folder, self.processes = config, folder, prepared.processes
        self.manager, self.hook = manager, manager.hook
        self.console = console if prepared.processes.is_main else Console(quiet=True)
        self.settings = prepared.resume_invariants(config)
        self.prepared = prepared
        self.trainer = Trainer(config, prepared, manager)
        self.outputs = Outputs(config, folder, prepared, self.trainer)
        self._recent: deque[float] = deque(maxlen=LAST_LOSSES)

    def finish(self, existing: ExistingRun) -> Path:
        """Train to the last step, write what was trained and the last previews, and return the adapter's path."""
        began = time.perf_counter()
        with ExitStack() as held:
            with self._main_alone() as alone:
                if alone:
                    held.enter_context(RunLock(self.folder.path))
                    self.folder.check(existing)
            self._go_back(existing)
            record = self._record()
            held.enter_context(self._naming_last_checkpoint())
            with self._main_alone() as alone:
                if alone:
                    held.callback(self._open(existing, record))
            held.enter_context(torch.random.fork_rng())
            held.enter_context(self.prepared.learned.attached(self.prepared.pipe))
            held.enter_context(self.prepared.graph(self.config.training))
            stop = held.enter_context(StopRequest(self.processes.size > 1))
            self._learn_all(record, stop)
            with self._main_alone() as alone:
                if alone:
                    path = self.outputs.write_final()
                    self.outputs.preview()
                    self._told_finished(path, time.perf_counter() - began)
        return self.outputs.final_path()

    def _go_back(self, existing: ExistingRun) -> None:
        """Take up the last checkpoint if the run is resumed and has one."""
        with self.processes.together():
            saved = self.folder.checkpoint_steps() if existing is ExistingRun.RESUME else []
            if saved:
                self.trainer.resume(load_checkpoint(self.folder.checkpoint(saved[-1])), self.settings)
        step = torch.tensor(float(self.trainer.step))
        if self.processes.any(self.processes.mean([step]) != [float(step)]):
            found = "its processes do not see the same checkpoints"
            raise BwlabError("--resume", found, "Give a folder on a disk that all hosts share")

    def _open(self, existing: ExistingRun, record: RunRecord) -> Callable[[], None]:
        """Make the folder ready, tell that the run starts, and return what ends the trackers."""
        self.folder.open(self.config, existing, self.trainer.step)
        self.folder.write_log("started", self.trainer.step, steps=self.config.training.steps)
        finish = self.outputs.start()
        self.hook.bwlab_run_started(run=record)
        return finish

    def _told_finished(self, path: Path, seconds: float) -> None:
        self.folder.write_log("finished", self.trainer.step, seconds=seconds)
        loss = sum(self._recent) / len(self._recent) if self._recent else float("nan")
        self.hook.bwlab_run_finished(record=FinishRecord(self.trainer.step, loss, seconds, str(path)))

    def _record(self) -> RunRecord:
        config, training = self.config, self.config.training
        ranks = block_ranks(self.prepared.learned.adapter)
        return RunRecord(
            out=config.out,
            base=config.base,
            base_hash=self.prepared.base_hash,
            adapter=config.adapter.type,
            blocks=config.adapter.blocks,
            block_ranks={block: max(found) for block, found in ranks.items()},
            steps=training.steps,
            first_step=self.trainer.step,
            batch_size=training.batch_size * training.accumulation * self.processes.size,
            parameters=self.trainer.parameter_count(),
            seed=training.seed,
            config=toml_text(config),
        )

    def _learn_all(self, record: RunRecord, stop: StopRequest) -> None:
        steps, preview, saving = self.config.training.steps, self.config.preview.every, self.config.checkpoint.every
        bar = TrainingBar(self.console, self.trainer.step, steps)
        with bar.progress:
            while self.trainer.step < steps:
                self._learn(record, bar)
                step, last = self.trainer.step, self.trainer.step == steps
                stopping = self.processes.any(stop.asked)
                with self._main_alone() as alone:
                    if alone and (last or stopping or (saving and step % saving == 0)):
                        self._save_checkpoint()
                    if alone and preview and step % preview == 0 and not last and not stopping:
                        self.outputs.preview()
                if stopping:
                    self.console.print(f"stopped after step {step}; --resume goes on from there", soft_wrap=True)
                    raise KeyboardInterrupt

    def _learn(self, record: RunRecord, bar: TrainingBar) -> None:
        done = self.trainer.learn(record)
        self._recent.append(done.loss)
        with self._main_alone() as alone:
            if alone:
                bar.advance(done.loss)
                self.outputs.report(done)
                self.hook.bwlab_step_finished(record=done)

    def _save_checkpoint(self) -> None:
        adapter, state = self.outputs.write_checkpoint(self.settings)
        step = self.trainer.step
        self.hook.bwlab_checkpoint_saved(record=CheckpointRecord(step, str(state), str(adapter)))

    @contextmanager
    def _main_alone(self) -> Iterator[bool]:
        """In a `with` block that all processes run: true in the one that acts; an error there ends all."""
        with self.processes.together():
            yield self.processes.is_main

    @contextmanager
    def _naming_last_checkpoint(self) -> Iterator[None]:
        """Tell, with any error, from which checkpoint the run can go on."""
        try:
            yield
        except (BwlabError, OSError) as error:
            told = error if isinstance(error, BwlabError) else from_system(error, self.folder)
            saved = self.folder.checkpoint_steps()
            where = f"last good checkpoint: {self.folder.checkpoint(saved[-1])}" if saved else "no checkpoint yet"
            raise BwlabError(told.asked, f"{told.found}; {where}", told.fix) from error


def from_system(error: OSError, folder: RunFolder) -> BwlabError:
    """Return the error of a disk that is full, read-only and the like."""
    path = error.filename or folder.path
    return BwlabError(f"writing {path}", error.strerror or str(error), "Make room, then add --resume")


class StopRequest:
    """In a `with` block: the first Ctrl-C sets `asked`, the second one interrupts at once.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        launched: by a launcher of several processes, which passes on a Ctrl-C that the terminal has sent us already:
            then a second one counts only after a second.

    """

    def __init__(self, launched: bool = False) -> None:
        self.asked = False
        self._wait = SAME_PRESS if launched else 0.0
        self._asked_at = 0.0
        self._before: object = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]  # what signal() returned

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._asked_at = True, time.monotonic()
        elif time.monotonic() - self._asked_at >= self._wait:
            raise KeyboardInterrupt
