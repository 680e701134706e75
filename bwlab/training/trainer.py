"""One optimiser step after another: losses, gradients, the step, and the moving average."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwlab.base.conditioning import denoiser_conditions
from bwlab.base.families.family import TextBatch
from bwlab.base.models import denoiser_of, family_of
from bwlab.dataset.order import generator_for, seed_for
from bwlab.errors import BwlabError
from bwlab.plugins.discovery import reason
from bwlab.plugins.events import RunRecord, StepRecord
from bwlab.training.config import TrainConfig
from bwlab.training.device import compiled_denoiser
from bwlab.training.objective import NoisyBatch, noisy_batch, prediction_loss
from bwlab.training.prepare import TrainingSetup
from bwlab.training.state import (
    AVERAGE,
    OPTIMIZER,
    OTHER_FOLDER,
    TRAINABLE,
    TrainingState,
    check_settings,
    load_optimizer,
    on_cpu,
    optimizer_groups,
    optimizer_tensors,
    require_finite,
)
from bwlab.training.trainable import learning_rate, parameter_groups, rate_factor

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager


Losses = dict[str, Tensor]  # by name; the loss of the prediction itself has the empty name

DIVERGENCE_FIX = "Lower training.lr or check the data"
PLUGIN_FIX = "Mend or disable the plugin, then add --resume"


class Trainer:
    """Trains a run step by step.

    Args:
        config: all settings.
        setup: the base, the trainable and the data; the trainable must be attached to the base during `train_step`.
        manager: plugins that add losses.

    Raises:
        BwlabError: settings of the optimiser that contradict each other.

    """

    def __init__(self, config: TrainConfig, setup: TrainingSetup, manager: PluginManager) -> None:
        self.config, self.setup = config.training, setup
        self._extra_losses = list(manager.each("bwlab_extra_losses"))
        self._givers: dict[str, str] = {}  # name of an extra loss -> hook and plugin
        self.step = 0
        self._factor = rate_factor(self.config, setup.steps)
        setup.trainable.set_training(True)
        optimizer = setup.optimizer
        groups = parameter_groups(config, setup.trainable, optimizer)
        self._rates = [float(group["lr"]) for group in groups]
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        # The fused AdamW is the fast one on CPUs and CUDA; other devices may lack it.
        fused = setup.accelerator.device.type in ("cpu", "cuda")
        options = optimizer.checked_options(self.config.optimizer_options)
        self._plain_optimizer = optimizer.new(groups, options, fused)
        self._optimizer = setup.accelerator.prepare(self._plain_optimizer)
        denoiser = denoiser_of(setup.pipe)
        self._denoiser = compiled_denoiser(denoiser) if self.config.compile else denoiser
        parameters = setup.trainable.parameters()
        self._average = MovingAverage(parameters, self.config.ema) if self.config.ema else None

    def parameter_count(self) -> int:
        """Return how many numbers are trained."""
        return sum(parameter.numel() for parameter in self._parameters)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the moving average, if there is one, into the trainable for a `with` block, and switch dropout off."""
        self.setup.trainable.set_training(False)
        try:
            if self._average is None:
                yield
            else:
                with self._average.in_place():
                    yield
        finally:
            self.setup.trainable.set_training(True)

    def state(self, settings: dict[str, str]) -> TrainingState:
        """Return the state of the run; BwlabError if a trained parameter is no longer finite."""
        trainable = dict(self.setup.trainable.state())
        require_finite(self.step, trainable)
        tensors = {f"{TRAINABLE}{key}": tensor for key, tensor in trainable.items()}
        tensors |= {f"{OPTIMIZER}{key}": tensor for key, tensor in optimizer_tensors(self._plain_optimizer).items()}
        if self._average is not None:
            tensors |= {f"{AVERAGE}{index}": value for index, value in enumerate(self._average.values)}
        scaler = self.setup.accelerator.scaler
        numbers = scaler.state_dict() if scaler is not None else {}
        return TrainingState(self.step, on_cpu(tensors), optimizer_groups(self._plain_optimizer), settings, numbers)

    def resume(self, state: TrainingState, settings: dict[str, str]) -> None:
        """Go on from a saved state; BwlabError if it belongs to a run with other settings."""
        check_settings(state, settings)
        if state.step > self.setup.steps:
            epochs = self.config.epochs
            asked = f"--steps {self.setup.steps}" if epochs is None else f"--epochs {epochs} ({self.setup.steps} steps)"
            found = f"the run has already taken {state.step} steps"
            raise BwlabError(asked, found, "Give more steps" if epochs is None else "Give more epochs")
        self.setup.trainable.load(state.part(TRAINABLE))
        load_optimizer(state, self._plain_optimizer)
        if self._average is not None:
            self._average.load(state.part(AVERAGE))
        if self.setup.accelerator.scaler is not None:
            self.setup.accelerator.scaler.load_state_dict(dict(state.scaler))
        self.step = state.step

    def train_step(self, run: RunRecord) -> StepRecord:
        """Take one step and return its record.

        Raises:
            BwlabError: a loss or a gradient is NaN or infinite; the weights are as they were before the step.

        """
        began = time.perf_counter()
        factor = self._set_rates()
        with self.setup.processes.together():
            own_losses = self._backward(run)
        losses = dict(zip(own_losses, self.setup.processes.mean(list(own_losses.values())), strict=True))
        self._require_finite(losses)
        self.setup.processes.average_gradients(self._parameters)
        grad_norm = self._clip_gradients()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        if self._average is not None:
            self._average.update(self.step)
        return StepRecord(
            self.step,
            self.setup.steps,
            sum(losses.values()),
            learning_rate(self.config, self.setup.optimizer) * factor * self._found_rate(),
            grad_norm,
            time.perf_counter() - began,
            {name: loss for name, loss in losses.items() if name},
        )

    def _set_rates(self) -> float:
        """Set the learning rates of this step and return their factor."""
        factor = self._factor(self.step)
        for group, rate in zip(self._plain_optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        return factor

    def _found_rate(self) -> float:
        """Return the learning rate that the optimiser has found; 1 for one that does not look for it."""
        return float(self._plain_optimizer.param_groups[0]["d"]) if self.setup.optimizer.one_rate else 1.0

    def _backward(self, run: RunRecord) -> Losses:
        """Compute the gradients of one step and return the mean losses of its micro-batches."""
        accumulation = self.config.accumulation
        sums: Losses = {}
        for micro_batch in range(self.step * accumulation, (self.step + 1) * accumulation):
            # Layers of adapter types may use PyTorch's global generator (dropout); this makes them repeatable.
            torch.manual_seed(seed_for(self.config.seed, "global", micro_batch, *self._process_purpose()))
            batch = self._batch(micro_batch)
            losses = {name: loss / accumulation for name, loss in self._losses(run, batch).items()}
            self.setup.accelerator.backward(torch.stack(list(losses.values())).sum())
            for name, loss in losses.items():
                sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
        return sums

    def _process_purpose(self) -> tuple[int, ...]:
        """Return the number that makes dropout differ between processes; nothing for the first process."""
        return () if self.setup.processes.is_main else (self.setup.processes.number,)

    def _batch(self, micro_batch: int) -> NoisyBatch:
        """Return this process's rows of a micro-batch, which all processes sample whole and alike."""
        setup, config, size = self.setup, self.config, self.config.batch_size
        sampled = setup.data.sample(micro_batch, size * setup.processes.size, config.seed)
        generator = generator_for(config.seed, "step", micro_batch)
        offset, gamma = config.noise_offset, config.min_snr_gamma
        batch = noisy_batch(sampled, setup.process, generator, offset=offset, gamma=gamma)
        return batch.rows(setup.processes.rows(size)).to(setup.accelerator.device)

    def _losses(self, run: RunRecord, batch: NoisyBatch) -> Losses:
        with self.setup.accelerator.autocast():
            text = self.setup.texts.batch(batch.captions, self.setup.accelerator.device)
            prediction = self._predict(batch, text)
        losses = {"": prediction_loss(prediction, batch)}
        tensors = batch.tensors(text)
        for record, extra_losses in self._extra_losses:
            # If it fails, the run ends: without this loss it would train something else than was asked for.
            asked = f"bwlab_extra_losses of plugin {record.name} of {record.source}"
            try:
                extra = extra_losses(run=run, batch=tensors, prediction=prediction)
            except (Exception, SystemExit) as error:
                raise BwlabError(asked, reason(error), PLUGIN_FIX) from error
            for name, loss in (item for given in extra for item in checked_losses(asked, given)):
                if name in losses:
                    raise BwlabError(f"extra loss {name!r}", "two plugins give it", "Disable one of them")
                losses[name], self._givers[name] = loss, asked
        return losses

    def _predict(self, batch: NoisyBatch, text: TextBatch) -> Tensor:
        conditions = denoiser_conditions(self.setup.pipe, text, batch.sizes)
        return family_of(self.setup.pipe).run(self._denoiser, batch.noisy, batch.timesteps, conditions)

    def _require_finite(self, losses: dict[str, float]) -> None:
        for name, loss in losses.items():
            if not math.isfinite(loss):
                step = f"training step {self.step + 1}"
                if name:
                    raise BwlabError(f"{step}, {self._givers[name]}", f"the loss {name!r} is {loss}", PLUGIN_FIX)
                raise BwlabError(step, f"the loss is {loss}", DIVERGENCE_FIX)

    def _clip_gradients(self) -> float:
        """Scale the gradients down to the greatest norm that is allowed and return the norm they had."""
        accelerator = self.setup.accelerator
        norm = float(accelerator.clip_grad_norm_(self._parameters, self.config.max_grad_norm or math.inf))
        # With a scaler (fp16) gradients may overflow; it skips the step and lowers its scale.
        if not math.isfinite(norm) and accelerator.scaler is None:
            raise BwlabError(f"training step {self.step + 1}", f"the gradient's norm is {norm}", DIVERGENCE_FIX)
        return norm


def checked_losses(asked: str, given: object) -> Iterator[tuple[str, Tensor]]:
    """Yield each loss that a plugin returned for a step, by name, as a tensor without dimensions.

    Args:
        asked: the hook and the plugin, for messages.
        given: what it returned: None or losses by name.

    Raises:
        BwlabError: it returned something else than single numbers by name.

    """
    if given is not None and not isinstance(given, Mapping):
        raise BwlabError(asked, f"it returned {type(given).__name__}, not losses by name", PLUGIN_FIX)
    for name, loss in (given or {}).items():
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise BwlabError(asked, f"the loss {name!r} is {what}, not a tensor of one number", PLUGIN_FIX)
        yield str(name), loss.float().reshape(())


class MovingAverage:
    """An exponential moving average of tensors, beside them.

    Early on it forgets faster: the decay after n steps is at most `(1 + n) / (10 + n)`, so that the initial values
    hardly count.

    Args:
        tensors: the tensors that are averaged, and the initial values.
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
        """Put the averages into the tensors for a `with` block; afterwards the tensors are restored bit for bit."""
        before = [tensor.detach().clone() for tensor in self._tensors]
        try:
            self._fill(self.values)
            yield
        finally:
            self._fill(before)

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from saved averages, by the place of their tensor; BwlabError if they are of other tensors."""
        own = {str(index): value for index, value in enumerate(self.values)}
        if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in saved.items()}:
            raise BwlabError("--resume", "the checkpoint holds averages of other layers or ranks", OTHER_FOLDER)
        for key, value in own.items():
            value.copy_(saved[key])

    @torch.no_grad()
    def _fill(self, values: Sequence[Tensor]) -> None:
        for tensor, value in zip(self._tensors, values, strict=True):
            tensor.copy_(value)
