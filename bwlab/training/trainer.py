"""One optimiser step after another."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwlab.base.conditioning import TextBatch, unet_arguments
from bwlab.dataset.order import generator_for, seed_for
from bwlab.errors import BwlabError
from bwlab.plugins.events import RunRecord, StepRecord
from bwlab.training.config import TrainConfig
from bwlab.training.device import compiled_unet
from bwlab.training.objective import NoisyBatch, noisy_batch, prediction_loss
from bwlab.training.optimizers import checked_options, new_optimizer, rate_factor
from bwlab.training.prepare import TrainingSetup
from bwlab.training.state import (
    AVERAGE,
    LEARNED,
    OPTIMIZER,
    TrainingState,
    check_settings,
    load_optimizer,
    on_cpu,
    optimizer_groups,
    optimizer_tensors,
    require_finite,
)
from bwlab.training.trainable import parameter_groups

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager


Losses = dict[str, Tensor]  # by name; the prediction's own has the empty name


class Trainer:
    """What is trained, its optimiser and how far they are.

    Args:
        config: all settings.
        prepared: what is trained must be attached to the base while `learn` is called.
        manager: plugins that add losses.

    Raises:
        BwlabError: settings of the optimiser that do not fit.

    """

    def __init__(self, config: TrainConfig, prepared: TrainingSetup, manager: PluginManager) -> None:
        self.config, self.prepared, self._manager = config.training, prepared, manager
        self.step = 0
        self._factor = rate_factor(self.config)
        prepared.learned.training(True)
        groups = parameter_groups(config, prepared.learned)
        self._rates = [float(group["lr"]) for group in groups]
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        # The fused AdamW is the fast one on CPUs and CUDA; other devices may lack it.
        fused = prepared.accelerator.device.type in ("cpu", "cuda")
        options = checked_options(self.config.optimizer, self.config.optimizer_options)
        self._plain = new_optimizer(self.config.optimizer, groups, options, fused)
        self._optimizer = prepared.accelerator.prepare(self._plain)
        self._unet = compiled_unet(prepared.pipe.unet) if self.config.compile else prepared.pipe.unet
        learned = prepared.learned.parameters()
        self._average = MovingAverage(learned, self.config.ema) if self.config.ema else None

    def parameter_count(self) -> int:
        """Return how many numbers are trained."""
        return sum(parameter.numel() for parameter in self._parameters)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Return what is trained is, inside the `with` block, what is saved and shown: the average if there is one."""
        self.prepared.learned.training(False)
        try:
            if self._average is None:
                yield
            else:
                with self._average.in_place():
                    yield
        finally:
            self.prepared.learned.training(True)

    def checkpoint(self, settings: dict[str, str]) -> TrainingState:
        """Return the run as it stands; BwlabError if what is trained is no longer finite."""
        state = dict(self.prepared.learned.state())
        require_finite(self.step, state)
        tensors = {f"{LEARNED}{key}": tensor for key, tensor in state.items()}
        tensors |= {f"{OPTIMIZER}{key}": tensor for key, tensor in optimizer_tensors(self._plain).items()}
        if self._average is not None:
            tensors |= {f"{AVERAGE}{index}": value for index, value in enumerate(self._average.values)}
        scaler = self.prepared.accelerator.scaler
        numbers = scaler.state_dict() if scaler is not None else {}
        return TrainingState(self.step, on_cpu(tensors), optimizer_groups(self._plain), settings, numbers)

    def resume(self, checkpoint: TrainingState, settings: dict[str, str]) -> None:
        """Go back to a checkpoint; BwlabError if it is of a run with other settings."""
        check_settings(checkpoint, settings)
        if checkpoint.step > self.config.steps:
            found = f"the run has already taken {checkpoint.step} steps"
            raise BwlabError(f"--steps {self.config.steps}", found, "Give more steps")
        self.prepared.learned.load(checkpoint.part(LEARNED))
        load_optimizer(checkpoint, self._plain)
        if self._average is not None:
            averages = checkpoint.part(AVERAGE)
            self._average.load([averages[str(index)] for index in range(len(averages))])
        if self.prepared.accelerator.scaler is not None:
            self.prepared.accelerator.scaler.load_state_dict(dict(checkpoint.scaler))
        self.step = checkpoint.step

    def learn(self, run: RunRecord) -> StepRecord:
        """Take one step and return its record.

        Raises:
            BwlabError: a loss or a gradient is NaN or infinite; the weights are as they were before the step.

        """
        began = time.perf_counter()
        factor = self._set_rates()
        with self.prepared.processes.together():
            here = self._backward(run)
        losses = dict(zip(here, self.prepared.processes.mean(list(here.values())), strict=True))
        self._require_finite(losses)
        self.prepared.processes.average_gradients(self._parameters)
        grad_norm = self._clip()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        if self._average is not None:
            self._average.update(self.step)
        return StepRecord(
            self.step,
            self.config.steps,
            sum(losses.values()),
            self.config.rate() * factor * self._found_rate(),
            grad_norm,
            time.perf_counter() - began,
            {name: loss for name, loss in losses.items() if name},
        )

    def _set_rates(self) -> float:
        """Set the rates of this step and return their factor."""
        factor = self._factor(self.step)
        for group, rate in zip(self._plain.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        return factor

    def _found_rate(self) -> float:
        """Return the rate that Prodigy has found, 1 for other optimisers."""
        return float(self._plain.param_groups[0].get("d", 1.0))

    def _backward(self, run: RunRecord) -> Losses:
        """Compute the gradients of one step and return the mean losses of its micro-batches."""
        parts = self.config.accumulation
        sums: Losses = {}
        for micro in range(self.step * parts, (self.step + 1) * parts):
            # Layers of adapter types may use PyTorch's global generator (dropout); this makes them repeatable.
            torch.manual_seed(seed_for(self.config.seed, "global", micro, *self._own_number()))
            losses = {name: loss / parts for name, loss in self._losses(run, self._batch(micro)).items()}
            self.prepared.accelerator.backward(torch.stack(list(losses.values())).sum())
            for name, loss in losses.items():
                sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
        return sums

    def _own_number(self) -> tuple[int, ...]:
        """Return what tells this process's dropout from that of the others; nothing for the first."""
        return () if self.prepared.processes.is_main else (self.prepared.processes.number,)

    def _batch(self, micro: int) -> NoisyBatch:
        """Return this process's part of a micro-batch; all draw the same whole, so their number changes nothing."""
        prepared, config, size = self.prepared, self.config, self.config.batch_size
        drawn = prepared.data.draw(micro, size * prepared.processes.size, config.seed)
        generator = generator_for(config.seed, "step", micro)
        offset, gamma = config.noise_offset, config.min_snr_gamma
        batch = noisy_batch(drawn, prepared.schedule, generator, offset=offset, gamma=gamma)
        return batch.rows(prepared.processes.rows(size)).to(prepared.accelerator.device)

    def _losses(self, run: RunRecord, batch: NoisyBatch) -> Losses:
        with self.prepared.accelerator.autocast():
            text = self.prepared.texts.batch(batch.captions, self.prepared.accelerator.device)
            prediction = self._predict(batch, text)
        losses = {"": prediction_loss(prediction, batch)}
        given = batch.tensors(text)
        for extra in self._manager.hook.bwlab_extra_losses(run=run, batch=given, prediction=prediction):
            for name, loss in (extra or {}).items():
                if name in losses:
                    raise BwlabError(f"extra loss {name!r}", "two plugins give it", "Disable one of them")
                losses[name] = loss.float()
        return losses

    def _predict(self, batch: NoisyBatch, text: TextBatch) -> Tensor:
        conditions = unet_arguments(self.prepared.pipe, text, batch.sizes)
        prediction: Tensor = self._unet(batch.noisy, batch.timesteps, return_dict=False, **conditions)[0]
        return prediction

    def _require_finite(self, losses: dict[str, float]) -> None:
        for name, loss in losses.items():
            if not math.isfinite(loss):
                found = f"the {f'extra loss {name!r}' if name else 'loss'} is {loss}"
                raise BwlabError(f"training step {self.step + 1}", found, "Lower training.lr or look at the data")

    def _clip(self) -> float:
        """Scale the gradients down to the greatest norm that is allowed and return the norm they had."""
        accelerator = self.prepared.accelerator
        norm = float(accelerator.clip_grad_norm_(self._parameters, self.config.max_grad_norm or math.inf))
        # With a scaler (fp16) that happens; it skips the step and lowers its scale.
        if not math.isfinite(norm) and accelerator.scaler is None:
            found = f"the gradient's norm is {norm}"
            raise BwlabError(f"training step {self.step + 1}", found, "Lower training.lr or look at the data")
        return norm


class MovingAverage:
    """An exponential moving average of tensors, beside them.

    Early on it forgets faster: the decay after n steps is at most `(1 + n) / (10 + n)`, so that where it started
    does not weigh on it.

    Args:
        tensors: what is averaged; it starts at their values.
        decay: 0..1.

    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self._tensors, self.decay = list(tensors), decay
        self.values = [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the tensors as they are after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for value, tensor in zip(self.values, self._tensors, strict=True):
            value.lerp_(tensor, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages into the tensors inside a `with` block; after it they are bit for bit what they were."""
        before = [tensor.detach().clone() for tensor in self._tensors]
        try:
            self._fill(self.values)
            yield
        finally:
            self._fill(before)

    def load(self, values: Sequence[Tensor]) -> None:
        """Go on from averages that were saved, in the order of the tensors."""
        for value, saved in zip(self.values, values, strict=True):
            value.copy_(saved)

    @torch.no_grad()
    def _fill(self, values: Sequence[Tensor]) -> None:
        for tensor, value in zip(self._tensors, values, strict=True):
            tensor.copy_(value)
