"""A training run from its configuration to the adapter file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from bwlab.adapters.adapter import Attached, attach
from bwlab.errors import BwlabError
from bwlab.formats.folders import make_folder
from bwlab.formats.kohya import save_adapter
from bwlab.formats.metadata import block_ranks
from bwlab.records import CheckpointRecord, FinishRecord, RunRecord
from bwlab.training.checkpoint import load_checkpoint, save_checkpoint
from bwlab.training.config import TrainConfig
from bwlab.training.interrupt import StopRequest
from bwlab.training.metadata import training_metadata
from bwlab.training.prepare import Prepared, prepare
from bwlab.training.previews import paint_previews, preview_prompts
from bwlab.training.progress import TrainingBar
from bwlab.training.run_folder import Existing, RunFolder
from bwlab.training.toml_text import toml_text
from bwlab.training.trainer import Trainer

if TYPE_CHECKING:
    from bwlab.plugins import PluginManager

LAST_LOSSES = 100


def run(config: TrainConfig, manager: PluginManager, console: Console, existing: Existing) -> Path:
    """Train and return the path of the adapter file; see `bwlab.training.train`."""
    if not config.out:
        raise BwlabError("bwlab train", "no folder for the run given", "Give one with --out DIR")
    folder = RunFolder(Path(config.out))
    folder.check(existing)
    return Run(config, folder, prepare(config, manager, console), manager, console).finish(existing)


class Run:
    """A prepared run and its folder.

    Args:
        config: all settings.
        folder: where it writes.
        prepared: the base, the adapter and the data.
        manager: plugins that hear of it.
        console: where the bar is drawn.
    """

    def __init__(
        self, config: TrainConfig, folder: RunFolder, prepared: Prepared, manager: PluginManager, console: Console
    ) -> None:
        self.config, self.folder, self.prepared = config, folder, prepared
        self.manager, self.console = manager, console
        self.settings = prepared.lasting_settings(config)
        self.trainer = Trainer(config.training, prepared, manager)
        self.prompts = preview_prompts(config.preview, prepared.data.different_captions())
        self._recent: deque[float] = deque(maxlen=LAST_LOSSES)

    def finish(self, existing: Existing) -> Path:
        """Train to the last step, write the adapter and the last previews, and return the adapter's path."""
        began = time.perf_counter()
        saved = self.folder.checkpoint_steps() if existing is Existing.RESUME else []
        if saved:
            self.trainer.resume(load_checkpoint(self.folder.checkpoint(saved[-1])), self.settings)
        record = self._record()
        with self._naming_last_checkpoint():
            self.folder.open(self.config, existing, self.trainer.step)
            self.folder.write_log("started", self.trainer.step, steps=self.config.training.steps)
            self.manager.hook.bwlab_run_started(run=record)
            attached = attach(self.prepared.pipe.unet, Attached(self.prepared.adapter))
            with torch.random.fork_rng(), attached, StopRequest() as stop:
                self._learn_all(record, stop)
                self._write_adapter(self.folder.adapter)
                self._preview()
            seconds = time.perf_counter() - began
            self.folder.write_log("finished", self.trainer.step, seconds=seconds)
        loss = sum(self._recent) / len(self._recent) if self._recent else float("nan")
        finish = FinishRecord(self.trainer.step, loss, seconds, str(self.folder.adapter))
        self.manager.hook.bwlab_run_finished(record=finish)
        return self.folder.adapter

    def _record(self) -> RunRecord:
        config, adapter = self.config, self.prepared.adapter
        return RunRecord(
            out=config.out,
            base=config.base,
            base_hash=self.prepared.base_hash,
            adapter=config.adapter.type,
            blocks=config.adapter.blocks,
            block_ranks={block: max(ranks) for block, ranks in block_ranks(adapter).items()},
            steps=config.training.steps,
            first_step=self.trainer.step,
            batch_size=config.training.batch_size,
            parameters=self.trainer.trained_numbers(),
            seed=config.training.seed,
            config=toml_text(config),
        )

    def _learn_all(self, record: RunRecord, stop: StopRequest) -> None:
        steps, preview, saving = self.config.training.steps, self.config.preview.every, self.config.checkpoint.every
        bar = TrainingBar(self.console, self.trainer.step, steps)
        with bar.progress:
            while self.trainer.step < steps:
                self._learn(record, bar)
                step, last = self.trainer.step, self.trainer.step == steps
                if last or stop.asked or (saving and step % saving == 0):
                    self._save_checkpoint()
                if stop.asked:
                    self.console.print(f"stopped after step {step}; --resume goes on from there", soft_wrap=True)
                    raise KeyboardInterrupt
                if preview and step % preview == 0 and not last:
                    self._preview()

    def _learn(self, record: RunRecord, bar: TrainingBar) -> None:
        done = self.trainer.learn(record)
        self._recent.append(done.loss)
        bar.advance(done.loss)
        self.folder.write_log(
            "step",
            done.step,
            loss=done.loss,
            **{f"extra.{name}": value for name, value in done.extra.items()},
            lr=done.learning_rate,
            grad_norm=done.grad_norm,
            seconds=round(done.seconds, 4),
        )
        self.manager.hook.bwlab_step_finished(record=done)

    def _save_checkpoint(self) -> None:
        step = self.trainer.step
        checkpoint = self.trainer.checkpoint(self.settings)
        adapter, state = self.folder.checkpoint_adapter(step), self.folder.checkpoint(step)
        make_folder(state.parent)
        self._write_adapter(adapter)
        save_checkpoint(checkpoint, state)
        self.folder.prune(self.config.checkpoint.keep)
        self.folder.write_log("checkpoint", step, path=str(state.relative_to(self.folder.path)))
        self.manager.hook.bwlab_checkpoint_saved(record=CheckpointRecord(step, str(state), str(adapter)))

    def _write_adapter(self, path: Path) -> None:
        data, step = self.prepared.data, self.trainer.step
        save_adapter(
            self.prepared.adapter, path, training_metadata(self.config, data.examples, self.prepared.base_hash, step)
        )

    def _preview(self) -> None:
        if not self.prompts:
            return
        step = self.trainer.step
        self.prepared.adapter.eval()
        paths = paint_previews(
            self.prepared.pipe, self.config.preview, self.prompts, lambda index: self.folder.preview(step, index)
        )
        self.prepared.adapter.train()
        self.folder.write_log("preview", step, paths=", ".join(path.name for path in paths))

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
