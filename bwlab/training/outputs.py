"""The files that a run writes: adapters, embeddings, checkpoints, previews, and the log that trackers get too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bwlab.adapters.names import adapter_name
from bwlab.adapters.save import save_adapter
from bwlab.base.models import text_encoders
from bwlab.config.sources import setting_values
from bwlab.config.toml import toml_text, with_names_only
from bwlab.dataset.examples import Example, dataset_hash, split_tags
from bwlab.files import make_folder
from bwlab.generation.prompt_notes import syntax_note
from bwlab.generation.recipe import RecipeAdapter, RecipeEmbedding, file_hash, recipe_adapter, write_png
from bwlab.plugins.events import StepRecord
from bwlab.terminal import warn
from bwlab.training.config import TrainConfig
from bwlab.training.data import CHUNK_TOKENS
from bwlab.training.prepare import TrainingSetup
from bwlab.training.run_folder import DEFAULT_NAME, RunFolder
from bwlab.training.sampling import generate_previews, preview_prompts, preview_recipe
from bwlab.training.state import save_state
from bwlab.training.tracking import Trackers
from bwlab.training.trainable import learning_rate
from bwlab.training.trainer import Trainer

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Outputs:
    """Writes a run's files; only the main process uses it.

    Args:
        config: all settings.
        folder: the folder of the run.
        setup: the base, the trainable and the data.
        trainer: the trainer, with the step and the moving average.

    """

    def __init__(self, config: TrainConfig, folder: RunFolder, setup: TrainingSetup, trainer: Trainer) -> None:
        self.config, self.folder, self.setup, self.trainer = config, folder, setup, trainer
        self.prompts = preview_prompts(config.preview, setup.data.distinct_captions())
        own = (*config.preview.prompts, config.preview.negative) if config.preview.enabled else ()
        if note := syntax_note(own, selectable=False):
            warn(f"previews: {note}")
        self._trackers: Trackers | None = None

    def start(self) -> Callable[[], None]:
        """Start the trackers and return the function that finishes them."""
        values = setting_values(self.config)
        self._trackers = Trackers(self.config.tracking, self.folder.path, values, self.trainer.step)
        return self._trackers.finish

    def final_path(self) -> Path:
        """Return the path of the trained adapter; of the first word's embedding if only words are trained."""
        if self.setup.trainable.adapter.layers:
            return self.folder.adapter
        return self.folder.path / f"{self.config.tokens.words[0]}.safetensors"

    def write_final(self) -> Path:
        """Write the trained files and return `final_path`."""
        self.folder.require_present()
        with self.trainer.averaged_weights():
            self._write(self.folder.adapter, "")
        return self.final_path()

    def write_checkpoint(self, settings: dict[str, str]) -> tuple[Path, Path]:
        """Write a checkpoint, delete the oldest ones, and return its paths: (adapter or embedding, training state)."""
        self.folder.require_present()
        step = self.trainer.step
        state = self.trainer.state(settings)
        adapter_path, state_path = self.folder.checkpoint_adapter(step), self.folder.checkpoint(step)
        make_folder(state_path.parent)
        with self.trainer.averaged_weights():
            written = self._write(adapter_path, f"{adapter_path.stem}-")
        save_state(state, state_path)
        self.folder.prune(self.config.checkpoint.keep)
        self.folder.write_log("checkpoint", step, path=str(state_path.relative_to(self.folder.path)))
        return written, state_path

    def log_step(self, record: StepRecord) -> None:
        """Write one step to the log and to the trackers."""
        values = {
            "loss": record.loss,
            **{f"extra.{name}": value for name, value in record.extra.items()},
            "lr": record.learning_rate,
            "grad_norm": record.grad_norm,
        }
        self.folder.write_log("step", record.step, **values, seconds=round(record.seconds, 4))
        if self._trackers is not None:
            self._trackers.log(values, record.step)

    def preview(self) -> None:
        """Generate and write the previews of this step, with the weights that would be saved now."""
        if not self.prompts:
            return
        self.folder.require_present()
        step = self.trainer.step
        recipe = preview_recipe(self.config, self.setup.base_hash, self._adapters_now(), self._embeddings_now())
        with self.trainer.averaged_weights():
            images = generate_previews(self.setup.pipe, recipe, self.prompts, self.setup.previews)
        paths = [self.folder.preview(step, index) for index in range(len(images))]
        for path, (image, image_recipe) in zip(paths, images, strict=True):
            make_folder(path.parent)
            write_png(path, image, image_recipe, overwrite=True)
        self.folder.write_log("preview", step, paths=", ".join(path.name for path in paths))

    def has_previews(self) -> bool:
        """Return whether all previews of this step are written."""
        return all(self.folder.preview(self.trainer.step, index).is_file() for index in range(len(self.prompts)))

    def _adapters_now(self) -> tuple[RecipeAdapter, ...]:
        """Return the adapter of this step as recipes name it; its hash is empty if no file holds these weights."""
        if not self.setup.trainable.adapter.layers:
            return ()
        step, name = self.trainer.step, adapter_name(self.folder.adapter)
        if step == self.setup.steps and self.folder.adapter.is_file():
            return (recipe_adapter(self.folder.adapter, "1"),)
        path = self.folder.checkpoint_adapter(step)
        return (RecipeAdapter(f"{name}-step-{step:06}", file_hash(path) if path.is_file() else ""),)

    def _embeddings_now(self) -> tuple[RecipeEmbedding, ...]:
        words = self.setup.trainable.token_embeddings
        return () if words is None else tuple(RecipeEmbedding(word, "") for word in self.config.tokens.words)

    def _write(self, path: Path, prefix: str) -> Path:
        """Write the adapter to `path` and embeddings of new words beside it; return the first file written."""
        trainable, step = self.setup.trainable, self.trainer.step
        written: list[Path] = []
        if trainable.adapter.layers:
            entries = training_metadata(self.config, self.setup, step)
            save_adapter(trainable.adapter, path, entries, dtype=DTYPES[self.config.output.dtype])
            written.append(path)
        if trainable.token_embeddings is not None:
            written += trainable.token_embeddings.save(path.parent, prefix)
        return written[0]


def option_text(options: Mapping[str, object]) -> str:
    """Return options as kohya's trainer writes them after an optimiser's name: `(d_coef=2,eps=1e-08)`, or nothing."""
    text = ",".join(f"{name}={value}" for name, value in sorted(options.items()))
    return f"({text})" if text else ""


def training_metadata(config: TrainConfig, setup: TrainingSetup, steps: int) -> dict[str, str]:
    """Return the metadata of an adapter file: `bwlab.*` to repeat the run, `ss_*` for other tools.

    Adapters are passed on, so the metadata name files and folders without where they lie.

    Args:
        config: all settings of the run.
        setup: the data, the base and the length of the run.
        steps: number of optimiser steps taken.

    """
    training, examples, epochs = config.training, setup.data.examples, setup.epochs
    rate = learning_rate(training, setup.optimizer)
    new = [example for example in examples if not example.regularisation]
    images = sum(example.repeats for example in new)
    regularised = len(new) < len(examples)
    return {
        "bwlab.config": toml_text(with_names_only(config)),
        "bwlab.blocks": config.adapter.blocks,
        "bwlab.base_hash": setup.base_hash,
        "bwlab.dataset_hash": dataset_hash(examples),
        "ss_output_name": Path(config.out).name if config.output.name == DEFAULT_NAME else config.output.name,
        "ss_sd_model_name": Path(config.base).name,
        "ss_num_train_images": str(images),
        "ss_num_reg_images": str(images if regularised else 0),  # an epoch has as many of both
        "ss_num_batches_per_epoch": str(-(-epochs.examples // training.batch_size)),
        "ss_total_batch_size": str(training.batch_size),
        "ss_steps": str(steps),
        "ss_max_train_steps": str(setup.steps),
        "ss_epoch": str(epochs.at(steps)),
        "ss_num_epochs": str(epochs.at(setup.steps)),
        "ss_gradient_accumulation_steps": str(training.accumulation),
        "ss_learning_rate": repr(rate),
        "ss_unet_lr": repr(rate),
        "ss_optimizer": f"{setup.optimizer.class_name()}{option_text(training.optimizer_options)}",
        "ss_lr_scheduler": training.schedule,
        "ss_lr_warmup_steps": str(training.warmup_steps(setup.steps)),
        "ss_max_grad_norm": repr(training.max_grad_norm),
        "ss_min_snr_gamma": str(training.min_snr_gamma),
        "ss_clip_skip": str(training.clip_skip if len(text_encoders(setup.pipe)) == 1 else None),
        "ss_max_token_length": str(config.data.max_tokens if config.data.max_tokens > CHUNK_TOKENS else None),
        "ss_noise_offset": str(training.noise_offset or None),
        "ss_prior_loss_weight": repr(config.regularisation.weight),
        "ss_mixed_precision": training.precision,
        "ss_seed": str(training.seed),
        "ss_tag_frequency": json.dumps(tag_frequency(new), ensure_ascii=False),
    }


def tag_frequency(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Return how often each tag occurs, by the name of the images' folder, as kohya's trainer writes it."""
    counts: dict[str, Counter[str]] = {}
    for example in examples:
        counts.setdefault(example.path.parent.resolve().name, Counter()).update(split_tags(example.caption))
    return {folder: dict(counter) for folder, counter in counts.items()}
