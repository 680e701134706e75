"""The summary of a run that is shown before its first step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from bwlab.adapters.save import block_ranks
from bwlab.base.conditioning import denoiser_conditions, encode_texts, predict
from bwlab.base.latents import latent_channels
from bwlab.base.models import denoiser_of, models_of
from bwlab.dataset.buckets import base_size
from bwlab.terminal import counted
from bwlab.training.trainable import learning_rate, parameter_groups

if TYPE_CHECKING:
    from accelerate import Accelerator
    from rich.console import Console

    from bwlab.adapters.adapter import Adapter
    from bwlab.base.architectures import Pipeline
    from bwlab.base.families.family import TextBatch
    from bwlab.dataset.epochs import Epochs
    from bwlab.dataset.examples import Example
    from bwlab.optimizers.types import OptimizerType
    from bwlab.training.config import TrainConfig
    from bwlab.training.run_folder import RunFolder
    from bwlab.training.trainable import Trainable

PRECISIONS = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}
LABEL_WIDTH = 12
PASSES = 3
"""How many passes of the denoiser a step of training takes: one forward, and backward about twice as long."""


@dataclass(frozen=True, eq=False)
class RunSummary:
    """What a run will do.

    Attributes:
        config: all settings.
        folder: the folder of the run.
        examples: the images.
        missing: number of regularisation images that are still to be generated.
        accelerator: device, precision and processes.
        pipe: the base.
        trainable: the parameters that are trained.
        optimizer: the optimiser.
        epochs: the epochs of the data in steps of this run.
        steps: number of optimiser steps of the whole run.
        first_step: number of steps already taken.
        text: the encoded text of the pass that is timed; None: an empty one is encoded.

    """

    config: TrainConfig
    folder: RunFolder
    examples: Sequence[Example]
    missing: int
    accelerator: Accelerator
    pipe: Pipeline
    trainable: Trainable
    optimizer: OptimizerType
    epochs: Epochs
    steps: int
    first_step: int = 0
    text: TextBatch | None = None

    def show(self, console: Console) -> None:
        """Print the summary, one label with its text in a row; a quiet console has none, whose rows take time."""
        if console.quiet:
            return
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=LABEL_WIDTH, no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in self.rows():
            table.add_row(Text(label, style="bold"), Text(text))
        console.print(table)

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield (label, text) of each row."""
        training, accelerator = self.config.training, self.accelerator
        precision = PRECISIONS[accelerator.mixed_precision]
        quantised = "" if training.quantize == "none" else f", linear layers in {training.quantize}"
        yield "base", f"{self.config.base}, {precision} on {accelerator.device}{quantised}"
        yield "images", self._images()
        yield "steps", self._steps()
        sizes = f"batch size {training.batch_size} × accumulation {training.accumulation}"
        count = accelerator.num_processes
        processes = f"{count} processes" if count > 1 else "1 process"
        yield "batch", f"{counted(self.epochs.step_examples, 'image')} per step: {sizes} × {processes}"
        yield "trained", self._trained()
        yield "memory", self._memory()
        yield "time", self._time()
        if self.trainable.adapter.layers:
            yield "ranks", ranks_text(self.trainable.adapter)
        yield "optimiser", self._optimizer()
        yield "saved", self._saved()

    def _images(self) -> str:
        new = [example for example in self.examples if not example.regularisation]
        shown = sum(example.repeats for example in new)
        classes = len(self.examples) - len(new)
        text = f"{counted(len(new), 'image')}, {shown} with repeats"
        if classes or self.missing:
            made = f", {self.missing} to be generated" if self.missing else ""
            text += f"; {counted(classes, 'regularisation image')}{made}, shown as often in total"
        return text

    def _steps(self) -> str:
        begin = f", from step {self.first_step} on" if self.first_step else ""
        length = self.steps * self.epochs.step_examples / self.epochs.examples
        return f"{self.steps}{begin}: {length:.4g} epochs of {counted(self.epochs.examples, 'image')}"

    def _trained(self) -> str:
        groups = parameter_groups(self.config, self.trainable, self.optimizer)
        numbers = sum(parameter.numel() for group in groups for parameter in group["params"])
        adapter, words = self.trainable.adapter, self.config.tokens.words
        parts = [f"{numbers:,} parameters"]
        if adapter.layers:
            parts.append(f"{self.config.adapter.type} in {counted(len(adapter.layers), 'module')}")
        if words:
            parts.append(f"new words {', '.join(words)}")
        return ", ".join(parts)

    def _memory(self) -> str:
        """Return what weights and gradients take; the rest is not known before the first step."""
        models = models_of(self.pipe)
        base = sum(parameter.nbytes for model in models for parameter in model.parameters())
        trained = 2 * sum(parameter.nbytes for parameter in self.trainable.parameters())
        return (
            f"{megabytes(base)} for the base, {megabytes(trained)} for what is trained with its gradients; the "
            "optimiser and the activations come on top"
        )

    def _time(self) -> str:
        """Return how long the remaining steps may take, from one pass of the denoiser for one image."""
        passes = PASSES * (self.steps - self.first_step) * self.config.training.accumulation
        seconds = passes * self.config.training.batch_size * self._pass_seconds()
        return f"about {duration_text(seconds)}, judged from one pass of the denoiser; the progress bar knows better"

    @torch.no_grad()
    def _pass_seconds(self) -> float:
        """Return the seconds of the denoiser for one image; on other devices than CPUs the first pass only warms up."""
        pipe, device = self.pipe, self.accelerator.device
        side = base_size(pipe).latents(self.config.data.resolution)
        arguments = denoiser_conditions(pipe, encode_texts(pipe, [""]) if self.text is None else self.text)
        denoiser = denoiser_of(pipe)
        latents = torch.zeros(1, latent_channels(pipe.vae), side, side, device=device, dtype=denoiser.dtype)
        times = torch.full((1,), 500, device=device)
        seconds = 0.0
        for _ in range(1 if device.type == "cpu" else 2):
            began = time.perf_counter()
            with self.accelerator.autocast():
                output = predict(pipe, latents, times, arguments)
            float(output.sum())  # waits for the device
            seconds = time.perf_counter() - began
        return seconds

    def _optimizer(self) -> str:
        training = self.config.training
        rate = f"rate {learning_rate(training, self.optimizer):g}"
        own = f" (blocks: {training.block_lr})" if training.block_lr else ""
        rising = training.warmup_steps(self.steps)
        warmup = f", warm-up over {counted(rising, 'step')}" if rising else ""
        return f"{training.optimizer}, {rate}{own}, schedule {training.schedule}{warmup}"

    def _saved(self) -> str:
        checkpoints, previews = self.config.checkpoint, self.config.preview
        file = self.folder.adapter if self.trainable.adapter.layers else self.folder.path
        text = (
            f"{file} ({self.config.output.dtype}); checkpoints {interval(checkpoints.every, checkpoints.every_epochs)}"
        )
        return f"{text}; previews {interval(previews.every, previews.every_epochs)}" if previews.enabled else text


def duration_text(seconds: float) -> str:
    """Return a duration to one digit or two.

    >>> duration_text(0.4), duration_text(95), duration_text(5000), duration_text(50_000)
    ('1 second', '2 minutes', '1.4 hours', '14 hours')
    """
    if seconds < 60:
        return counted(max(1, round(seconds)), "second")
    if seconds < 3600:
        return counted(round(seconds / 60), "minute")
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 10 else f"{hours:.0f} hours"


def megabytes(count: int) -> str:
    """Return a number of bytes in megabytes of 10^6 bytes.

    >>> megabytes(2_400_000_000), megabytes(45_200)
    ('2400 MB', '0.05 MB')
    """
    return f"{count / 1e6:.0f} MB" if count >= 10_000_000 else f"{count / 1e6:.1g} MB"


def interval(every: int | None, every_epochs: int | None) -> str:
    """Return how often something comes, in words.

    >>> interval(500, None), interval(None, 1), interval(0, None)
    ('every 500 steps', 'every epoch', 'at the end')
    """
    if every_epochs is not None:
        return "every epoch" if every_epochs == 1 else f"every {every_epochs} epochs"
    return f"every {counted(every, 'step')}" if every else "at the end"


def ranks_text(adapter: Adapter) -> str:
    """Return the ranks of the blocks: neighbours of one rank share an entry, as in `in0 to in2 16, mid 4`."""
    ranks_of = block_ranks(adapter)
    blocks = dict.fromkeys((*adapter.scheme.blocks(), *ranks_of))  # an untrained block between two parts them
    texts = {block: _span(ranks) for block, ranks in ranks_of.items()}
    return ", ".join(f"{_span(list(run))} {text}" for text, run in groupby(blocks, texts.get) if text is not None)


def _span(entries: Sequence[object]) -> str:
    """Return the first and the last entry, as in `1 to 4`; a single entry by itself."""
    return str(entries[0]) if len(entries) == 1 else f"{entries[0]} to {entries[-1]}"
