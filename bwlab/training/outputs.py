"""What a run writes: adapters, words, checkpoints, previews, the log and the trackers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bwlab.formats.folders import make_folder
from bwlab.formats.kohya import save_adapter
from bwlab.records import StepRecord
from bwlab.training.checkpoint import save_checkpoint
from bwlab.training.config import TrainConfig
from bwlab.training.metadata import training_metadata
from bwlab.training.prepare import Prepared
from bwlab.training.previews import paint_previews, preview_prompts
from bwlab.training.run_folder import RunFolder
from bwlab.training.sources import flat_settings
from bwlab.training.tracking import Trackers
from bwlab.training.trainer import Trainer


class Outputs:
    """Writes a run's files; used by its main process only.

    Args:
        config: all settings.
        folder: where they go.
        prepared: the base, what is trained and the data.
        trainer: knows the step, and the moving average if that is what is saved.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, prepared: Prepared, trainer: Trainer) -> None:
        self.config, self.folder, self.prepared, self.trainer = config, folder, prepared, trainer
        self.prompts = preview_prompts(config.preview, prepared.data.different_captions())
        self._trackers: Trackers | None = None

    def start(self) -> Callable[[], None]:
        """Start the trackers and return what ends them."""
        self._trackers = Trackers(self.config.tracking, self.folder.path, flat_settings(self.config), self.trainer.step)
        return self._trackers.finish

    def final_path(self) -> Path:
        """Return the path of the trained adapter, or of the first word if only words are trained."""
        if self.prepared.learned.adapter.layers:
            return self.folder.adapter
        return self.folder.path / f"{self.config.tokens.words[0]}.safetensors"

    def write_final(self) -> Path:
        """Write what was trained and return the path that `final_path` gives."""
        with self.trainer.to_be_used():
            self._write(self.folder.adapter, "")
        return self.final_path()

    def write_checkpoint(self, settings: dict[str, str]) -> tuple[Path, Path]:
        """Write a checkpoint, delete those that are too old, and return (its file to use, its state)."""
        step = self.trainer.step
        checkpoint = self.trainer.checkpoint(settings)
        adapter, state = self.folder.checkpoint_adapter(step), self.folder.checkpoint(step)
        make_folder(state.parent)
        with self.trainer.to_be_used():
            written = self._write(adapter, f"{adapter.stem}-")
        save_checkpoint(checkpoint, state)
        self.folder.prune(self.config.checkpoint.keep)
        self.folder.write_log("checkpoint", step, path=str(state.relative_to(self.folder.path)))
        return written, state

    def report(self, done: StepRecord) -> None:
        """Log one step and report it to the trackers."""
        values = {
            "loss": done.loss,
            **{f"extra.{name}": value for name, value in done.extra.items()},
            "lr": done.learning_rate,
            "grad_norm": done.grad_norm,
        }
        self.folder.write_log("step", done.step, **values, seconds=round(done.seconds, 4))
        if self._trackers is not None:
            self._trackers.log(values, done.step)

    def preview(self) -> None:
        """Paint the previews of this step, with what would be saved now."""
        if not self.prompts:
            return
        step = self.trainer.step
        with self.trainer.to_be_used():
            paths = paint_previews(
                self.prepared.pipe, self.config.preview, self.prompts, lambda index: self.folder.preview(step, index)
            )
        self.folder.write_log("preview", step, paths=", ".join(path.name for path in paths))

    def _write(self, path: Path, prefix: str) -> Path:
        """Write the adapter to ``path`` and the words beside it; return the first file written."""
        learned, step = self.prepared.learned, self.trainer.step
        written: list[Path] = []
        if learned.adapter.layers:
            entries = training_metadata(self.config, self.prepared.data.examples, self.prepared.base_hash, step)
            save_adapter(learned.adapter, path, entries)
            written.append(path)
        if learned.words is not None:
            written += learned.words.save(path.parent, prefix)
        return written[0]
