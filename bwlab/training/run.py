"""A training run from its configuration to the adapter file."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import torch
from rich.console import Console

from bwlab.adapters.save import block_ranks
from bwlab.config.toml import toml_text
from bwlab.dataset.buckets import base_size, subset_sizing
from bwlab.dataset.epochs import epoch_examples
from bwlab.dataset.folders import read_dataset, still_empty, subsets
from bwlab.errors import BwlabError
from bwlab.files import NO_ROOM, FolderLock
from bwlab.plugins.events import CheckpointRecord, FinishRecord, RunRecord
from bwlab.plugins.manager import GuardedHooks, PluginManager
from bwlab.training.config import TrainConfig
from bwlab.training.outputs import Outputs
from bwlab.training.prepare import TrainingSetup, prepare, prepare_model, run_length
from bwlab.training.run_folder import ExistingRun, RunFolder, folder_of
from bwlab.training.sampling import class_recipes, missing_images
from bwlab.training.state import TrainingState, load_state
from bwlab.training.summary import RunSummary
from bwlab.training.tracking import TrainingBar
from bwlab.training.trainable import rate_factor
from bwlab.training.trainer import Trainer

LAST_LOSSES = 100
REPEATED_INTERRUPT = 1.0  # seconds within which a launcher may repeat one Ctrl-C


def run(config: TrainConfig, manager: PluginManager, console: Console, existing: ExistingRun) -> Path:
    """Train and return the path of the adapter file; see `bwlab.training.train`."""
    folder = folder_of(config)
    setup = prepare(config, manager, console)
    return Run(config, folder, setup, manager, console).finish(existing)


def dry_run(config: TrainConfig, manager: PluginManager, console: Console, existing: ExistingRun) -> None:
    """Print the summary of a run and write nothing; see `bwlab.training.dry_run`."""
    folder = folder_of(config)
    model = prepare_model(config, manager)
    base = base_size(model.pipe)
    for subset in subsets(config.data):
        subset_sizing(subset, base)
    regularisation = config.regularisation
    without = regularisation.replace(folder=None)
    examples = read_dataset(config.data, without if still_empty(regularisation) else regularisation)
    present = sum(example.regularisation for example in examples)
    missing = len(missing_images(config, class_recipes(config, model.base_hash)))
    new = epoch_examples([example for example in examples if not example.regularisation])
    epochs, steps = run_length(config, 2 * new if missing or present else new, model.processes.size)
    rate_factor(config.training, steps)
    saved = folder.checkpoint_steps() if existing is ExistingRun.RESUME else []
    summary = RunSummary(
        config=config,
        folder=folder,
        examples=examples,
        missing=missing,
        accelerator=model.accelerator,
        pipe=model.pipe,
        trainable=model.trainable,
        optimizer=manager.optimizer(config.training.optimizer),
        epochs=epochs,
        steps=steps,
        first_step=saved[-1] if saved else 0,
    )
    if model.processes.is_main:
        summary.show(console)


class Run:
    """A run from its first step to its last.

    Of several processes only the main one writes files, shows progress and calls plugins; the others wait for it.

    Args:
        config: all settings.
        folder: the folder of the run.
        setup: the base, the trainable and the data.
        manager: plugins whose hooks are called.
        console: the console for progress.

    """

    def __init__(
        self, config: TrainConfig, folder: RunFolder, setup: TrainingSetup, manager: PluginManager, console: Console
    ) -> None:
        self.config, self.folder, self.processes = config, folder, setup.processes
        self.hooks = GuardedHooks(manager)
        self.console = console if setup.processes.is_main else Console(quiet=True)
        self.settings = setup.resume_invariants(config)
        self.setup = setup
        self.trainer = Trainer(config, setup, manager)
        self.outputs = Outputs(config, folder, setup, self.trainer)
        self._recent: deque[float] = deque(maxlen=LAST_LOSSES)

    def finish(self, existing: ExistingRun) -> Path:
        """Train to the last step, write the trained files and the last previews, and return the adapter's path."""
        began = time.perf_counter()
        with ExitStack() as held:
            with self._main_only() as is_main:
                if is_main:
                    held.enter_context(FolderLock(self.folder.path, "run"))
                    self.folder.check(existing)
            self._resume(existing)
            record = self.record()
            if self.processes.is_main:  # it times a pass of the UNet
                self._summary().show(self.console)
            held.enter_context(self._naming_last_checkpoint())
            with self._main_only() as is_main:
                if is_main:
                    held.callback(self._open(existing, record))
            held.enter_context(torch.random.fork_rng())
            held.enter_context(self.setup.trainable.attached(self.setup.pipe))
            held.enter_context(self.setup.graph(self.config.training))
            stop = held.enter_context(StopRequest(self.processes.size > 1))
            self._train_steps(record, stop)
            with self._main_only() as is_main:
                if is_main:
                    path = self.outputs.write_final()
                    self.outputs.preview()
                    self._report_finished(path, time.perf_counter() - began)
        return self.outputs.final_path()

    def _resume(self, existing: ExistingRun) -> None:
        """Load the last checkpoint if the run is resumed and has one."""
        with self.processes.together():
            saved = self.folder.checkpoint_steps() if existing is ExistingRun.RESUME else []
            if saved:
                self.trainer.resume(self._newest_state(saved), self.settings)
        step = torch.tensor(float(self.trainer.step))
        if self.processes.any(self.processes.mean([step]) != [float(step)]):
            reason = "its processes do not see the same checkpoints"
            raise BwlabError("--resume", reason, "Give a folder on a disk that all hosts share")

    def _newest_state(self, saved: Sequence[int]) -> TrainingState:
        """Return the newest training state; BwlabError, which tells the one before it, if it is damaged."""
        try:
            return load_state(self.folder.checkpoint(saved[-1]))
        except BwlabError as error:
            begin = f"resume from the one before, of step {saved[-2]}" if saved[1:] else "train from the first step"
            raise BwlabError(error.asked, error.found, f"Delete it to {begin}") from error

    def _open(self, existing: ExistingRun, record: RunRecord) -> Callable[[], None]:
        """Make the folder ready, report that the run starts, and return the function that finishes the trackers."""
        self.folder.open(self.config, existing, self.trainer.step)
        self.folder.write_log("started", self.trainer.step, steps=self.setup.steps)
        finish = self.outputs.start()
        self.hooks.call("bwlab_run_started", run=record)
        return finish

    def _report_finished(self, path: Path, seconds: float) -> None:
        self.folder.write_log("finished", self.trainer.step, seconds=seconds)
        loss = sum(self._recent) / len(self._recent) if self._recent else float("nan")
        self.hooks.call("bwlab_run_finished", record=FinishRecord(self.trainer.step, loss, seconds, str(path)))

    def _summary(self) -> RunSummary:
        return RunSummary(
            config=self.config,
            folder=self.folder,
            examples=self.setup.data.examples,
            missing=0,
            accelerator=self.setup.accelerator,
            pipe=self.setup.pipe,
            trainable=self.setup.trainable,
            optimizer=self.setup.optimizer,
            epochs=self.setup.epochs,
            steps=self.setup.steps,
            first_step=self.trainer.step,
            text=self.setup.texts.cached_example(self.setup.accelerator.device),
        )

    def record(self) -> RunRecord:
        """Return the record of the run that plugins receive."""
        config, training = self.config, self.config.training
        ranks = block_ranks(self.setup.trainable.adapter)
        return RunRecord(
            out=config.out,
            base=config.base,
            base_hash=self.setup.base_hash,
            adapter=config.adapter.type,
            blocks=config.adapter.blocks,
            block_ranks={block: max(layer_ranks) for block, layer_ranks in ranks.items()},
            steps=self.setup.steps,
            first_step=self.trainer.step,
            batch_size=self.setup.epochs.step_examples,
            parameters=self.trainer.parameter_count(),
            seed=training.seed,
            config=toml_text(config),
        )

    def _train_steps(self, record: RunRecord, stop: StopRequest) -> None:
        steps, epochs = self.setup.steps, self.setup.epochs
        preview, checkpoint = self.config.preview, self.config.checkpoint
        bar = TrainingBar(self.console, self.trainer.step, steps, epochs)
        with bar:
            self._preview_again()
            while self.trainer.step < steps:
                self._train_step(record, bar)
                step, last = self.trainer.step, self.trainer.step == steps
                stopping = self.processes.any(stop.asked)
                with self._main_only() as is_main:
                    if is_main and (last or stopping or epochs.due(step, checkpoint.every, checkpoint.every_epochs)):
                        self._save_checkpoint()
                    if is_main and not last and not stopping and epochs.due(step, preview.every, preview.every_epochs):
                        self.outputs.preview()
                if stopping:
                    self.console.print(f"stopped after step {step}; add --resume to go on from there", soft_wrap=True)
                    raise KeyboardInterrupt

    def _preview_again(self) -> None:
        """Make the previews of the step that the run is resumed from, if it ended between its checkpoint and them."""
        step, preview = self.trainer.step, self.config.preview
        due = 0 < step < self.setup.steps and self.setup.epochs.due(step, preview.every, preview.every_epochs)
        with self._main_only() as is_main:
            if is_main and due and not self.outputs.has_previews():
                self.outputs.preview()

    def _train_step(self, run: RunRecord, bar: TrainingBar) -> None:
        record = self.trainer.train_step(run)
        self._recent.append(record.loss)
        with self._main_only() as is_main:
            if is_main:
                bar.advance(record.loss)
                self.outputs.log_step(record)
                self.hooks.call("bwlab_step_finished", record=record)

    def _save_checkpoint(self) -> None:
        adapter, state = self.outputs.write_checkpoint(self.settings)
        step = self.trainer.step
        self.hooks.call("bwlab_checkpoint_saved", record=CheckpointRecord(step, str(state), str(adapter)))

    @contextmanager
    def _main_only(self) -> Iterator[bool]:
        """Yield whether this process is the main one; an error in the `with` block ends all processes."""
        with self.processes.together():
            yield self.processes.is_main

    @contextmanager
    def _naming_last_checkpoint(self) -> Iterator[None]:
        """Add to any error of a `with` block the checkpoint from which the run can be resumed."""
        try:
            yield
        except (BwlabError, OSError) as error:
            self.folder.require_present()
            reported = error if isinstance(error, BwlabError) else disk_error(error, self.folder)
            saved = self.folder.checkpoint_steps()
            where = f"last good checkpoint: {self.folder.checkpoint(saved[-1])}" if saved else "no checkpoint yet"
            raise BwlabError(reported.asked, f"{reported.found}; {where}", reported.fix) from error


def disk_error(error: OSError, folder: RunFolder) -> BwlabError:
    """Return the error for a disk that is full, read-only and the like."""
    path = error.filename or folder.path
    fix = "Make room" if error.errno in NO_ROOM else "Make the folder writable"
    return BwlabError(f"writing {path}", error.strerror or str(error), f"{fix}, then add --resume")


class StopRequest:
    """Sets `asked` at the first Ctrl-C or SIGTERM in a `with` block; a second one interrupts at once.

    Outside the main thread, where Python delivers no signals, it does nothing. SIGTERM is left to whoever handles it
    already, as a worker of Ray does.

    Args:
        launched: whether a launcher started several processes. A launcher repeats the Ctrl-C that the terminal has sent
            already, so a second one counts only after a second. It sends SIGTERM to the others when one has failed,
            and they could not finish a step without it: this signal ends them as it does any program.

    """

    def __init__(self, launched: bool = False) -> None:
        self.asked = False
        self._wait = REPEATED_INTERRUPT if launched else 0.0
        self._asked_at = 0.0
        self._launched = launched
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            ends = not self._launched and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            numbers = (signal.SIGINT, signal.SIGTERM) if ends else (signal.SIGINT,)
            self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # what signal() returned

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._asked_at = True, time.monotonic()
        elif time.monotonic() - self._asked_at >= self._wait:
            raise KeyboardInterrupt
