"""What a run writes: adapters, words, checkpoints, previews, the log and the trackers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.adapters.save import save_adapter
from bwlab.config.sources import setting_values
from bwlab.config.toml import toml_text
from bwlab.dataset.examples import Example, dataset_hash, split_tags
from bwlab.files import make_folder
from bwlab.generation.recipe import write_png
from bwlab.generation.sample import generate
from bwlab.plugins.events import StepRecord
from bwlab.training.config import PreviewConfig, TrainConfig
from bwlab.training.prepare import TrainingSetup
from bwlab.training.run_folder import RunFolder
from bwlab.training.state import save_checkpoint
from bwlab.training.tracking import Trackers
from bwlab.training.trainer import Trainer

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


DEFAULT_PROMPTS = 2

# As kohya's trainer writes them.
KOHYA_OPTIMIZERS = {
    "adamw": "torch.optim.adamw.AdamW",
    "adafactor": "transformers.optimization.Adafactor",
    "prodigy": "prodigyopt.prodigy.Prodigy",
}


class Outputs:
    """Writes a run's files; used by its main process only.

    Args:
        config: all settings.
        folder: where they go.
        prepared: the base, what is trained and the data.
        trainer: knows the step, and the moving average if that is what is saved.

    """

    def __init__(self, config: TrainConfig, folder: RunFolder, prepared: TrainingSetup, trainer: Trainer) -> None:
        self.config, self.folder, self.prepared, self.trainer = config, folder, prepared, trainer
        self.prompts = preview_prompts(config.preview, prepared.data.distinct_captions())
        self._trackers: Trackers | None = None

    def start(self) -> Callable[[], None]:
        """Start the trackers and return what ends them."""
        self._trackers = Trackers(self.config.tracking, self.folder.path, setting_values(self.config), self.trainer.step)
        return self._trackers.finish

    def final_path(self) -> Path:
        """Return the path of the trained adapter, or of the first word if only words are trained."""
        if self.prepared.learned.adapter.layers:
            return self.folder.adapter
        return self.folder.path / f"{self.config.tokens.words[0]}.safetensors"

    def write_final(self) -> Path:
        """Write what was trained and return the path that `final_path` gives."""
        with self.trainer.averaged_weights():
            self._write(self.folder.adapter, "")
        return self.final_path()

    def write_checkpoint(self, settings: dict[str, str]) -> tuple[Path, Path]:
        """Write a checkpoint, delete those that are too old, and return (its file to use, its state)."""
        step = self.trainer.step
        checkpoint = self.trainer.checkpoint(settings)
        adapter, state = self.folder.checkpoint_adapter(step), self.folder.checkpoint(step)
        make_folder(state.parent)
        with self.trainer.averaged_weights():
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
        with self.trainer.averaged_weights():
            paths = generate_previews(
                self.prepared.pipe, self.config.preview, self.prompts, lambda index: self.folder.preview(step, index)
            )
        self.folder.write_log("preview", step, paths=", ".join(path.name for path in paths))

    def _write(self, path: Path, prefix: str) -> Path:
        """Write the adapter to `path` and the words beside it; return the first file written."""
        learned, step = self.prepared.learned, self.trainer.step
        written: list[Path] = []
        if learned.adapter.layers:
            entries = training_metadata(self.config, self.prepared.data.examples, self.prepared.base_hash, step)
            save_adapter(learned.adapter, path, entries)
            written.append(path)
        if learned.words is not None:
            written += learned.words.save(path.parent, prefix)
        return written[0]


def preview_prompts(config: PreviewConfig, captions: list[str]) -> tuple[str, ...]:
    """Return the prompts to show: the given ones, else the first two different captions."""
    if not config.enabled:
        return ()
    return config.prompts or tuple(captions[:DEFAULT_PROMPTS])


def generate_previews(
    pipe: StableDiffusionPipeline, config: PreviewConfig, prompts: tuple[str, ...], place: Callable[[int], Path]
) -> list[Path]:
    """Paint each prompt with what is attached to the pipeline, write PNGs where `place` says, return their paths."""
    images = generate(
        pipe,
        list(prompts),
        [config.seed + index for index in range(len(prompts))],
        (),
        steps=config.steps,
        cfg=config.cfg,
        negative=config.negative,
    )
    paths = [place(index) for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        make_folder(path.parent)
        write_png(path, image, overwrite=True)
    return paths


def option_text(options: Mapping[str, object]) -> str:
    """Return options as they stand after an optimiser's name, `(d_coef=2,eps=1e-08)`; nothing without any."""
    listed = ",".join(f"{name}={value}" for name, value in sorted(options.items()))
    return f"({listed})" if listed else ""


def training_metadata(config: TrainConfig, examples: tuple[Example, ...], base_hash: str, steps: int) -> dict[str, str]:
    """Return the entries of an adapter file: `bwlab.*` to run it again, `ss_*` as other tools read them.

    Args:
        config: of the run.
        examples: what it learned from.
        base_hash: of the base's weights.
        steps: optimiser steps taken.

    """
    training = config.training
    new = [example for example in examples if not example.regularisation]
    shown = sum(example.repeats for example in new)
    return {
        "bwlab.config": toml_text(config),
        "bwlab.blocks": config.adapter.blocks,
        "bwlab.base_hash": base_hash,
        "bwlab.dataset_hash": dataset_hash(examples),
        "ss_output_name": Path(config.out).name,
        "ss_sd_model_name": Path(config.base).name,
        "ss_num_train_images": str(shown),
        "ss_num_reg_images": str(shown if len(new) < len(examples) else 0),  # as many are shown
        "ss_num_batches_per_epoch": str(-(-shown * (2 if len(new) < len(examples) else 1) // training.batch_size)),
        "ss_total_batch_size": str(training.batch_size),
        "ss_steps": str(steps),
        "ss_max_train_steps": str(training.steps),
        "ss_gradient_accumulation_steps": str(training.accumulation),
        "ss_learning_rate": repr(training.rate()),
        "ss_unet_lr": training.block_lr or repr(training.rate()),
        "ss_optimizer": f"{KOHYA_OPTIMIZERS[training.optimizer]}{option_text(training.optimizer_options)}",
        "ss_lr_scheduler": training.schedule,
        "ss_lr_warmup_steps": str(training.warmup),
        "ss_max_grad_norm": repr(training.max_grad_norm),
        "ss_min_snr_gamma": str(training.min_snr_gamma),
        "ss_noise_offset": str(training.noise_offset or None),
        "ss_prior_loss_weight": repr(config.regularisation.weight),
        "ss_mixed_precision": training.precision,
        "ss_seed": str(training.seed),
        "ss_tag_frequency": json.dumps(tag_frequency(new), ensure_ascii=False),
    }


def tag_frequency(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Return how often each tag occurs, by the name of the images' folder, as kohya's trainer notes it."""
    counts: dict[str, Counter[str]] = {}
    for example in examples:
        counts.setdefault(example.path.parent.resolve().name, Counter()).update(split_tags(example.caption))
    return {folder: dict(counter) for folder, counter in counts.items()}
