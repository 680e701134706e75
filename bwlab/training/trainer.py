"""One optimiser step after another."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwlab.errors import BwlabError
from bwlab.records import RunRecord, StepRecord
from bwlab.training.checkpoint import Checkpoint, capture, check_settings, restore
from bwlab.training.config import OptimizerConfig
from bwlab.training.objective import Batch, draw_batch, prediction_loss
from bwlab.training.order import batch_indices
from bwlab.training.prepare import Prepared
from bwlab.training.randomness import generator_for, seed_for

if TYPE_CHECKING:
    from bwlab.plugins import PluginManager


class Trainer:
    """An adapter, its optimiser and how far they are.

    Args:
        config: rates, batch size, seed.
        prepared: the adapter must be attached to its UNet while `learn` is called.
        manager: plugins that add losses.
    """

    def __init__(self, config: OptimizerConfig, prepared: Prepared, manager: PluginManager) -> None:
        self.config, self.prepared, self._manager = config, prepared, manager
        self.step = 0
        self._parameters = list(prepared.adapter.train().parameters())
        # The fused AdamW is the fast one on CPUs and CUDA; other devices may lack it.
        fused = prepared.accelerator.device.type in ("cpu", "cuda")
        self._adamw = torch.optim.AdamW(self._parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
        self._optimizer = prepared.accelerator.prepare(self._adamw)

    def trained_numbers(self) -> int:
        """Return how many numbers are trained."""
        return sum(parameter.numel() for parameter in self._parameters)

    def checkpoint(self, settings: dict[str, str]) -> Checkpoint:
        """Return the run as it stands; BwlabError if the adapter is no longer finite."""
        scaler = self.prepared.accelerator.scaler
        state = scaler.state_dict() if scaler is not None else {}
        return capture(self.step, self.prepared.adapter, self._adamw, settings, state)

    def resume(self, checkpoint: Checkpoint, settings: dict[str, str]) -> None:
        """Go back to a checkpoint; BwlabError if it is of a run with other settings."""
        check_settings(checkpoint, settings)
        if checkpoint.step > self.config.steps:
            found = f"the run has already taken {checkpoint.step} steps"
            raise BwlabError(f"--steps {self.config.steps}", found, "Give more steps")
        restore(checkpoint, self.prepared.adapter, self._adamw)
        if self.prepared.accelerator.scaler is not None:
            self.prepared.accelerator.scaler.load_state_dict(dict(checkpoint.scaler))
        self.step = checkpoint.step

    def learn(self, run: RunRecord) -> StepRecord:
        """Take one step and return its record.

        Raises:
            BwlabError: a loss is NaN or infinite; the weights are as they were before the step.
        """
        began = time.perf_counter()
        # Layers of adapter types may use PyTorch's global generator (dropout); this makes them repeatable.
        torch.manual_seed(seed_for(self.config.seed, "global", self.step))
        losses = self._losses(run, self._batch())
        total = torch.stack(list(losses.values())).sum()
        self._require_finite(losses)
        accelerator = self.prepared.accelerator
        accelerator.backward(total)
        grad_norm = accelerator.clip_grad_norm_(self._parameters, self.config.max_grad_norm or math.inf)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        return StepRecord(
            self.step,
            self.config.steps,
            float(total.detach()),
            self.config.lr,
            float(grad_norm),
            time.perf_counter() - began,
            {name: float(loss.detach()) for name, loss in losses.items() if name},
        )

    def _batch(self) -> Batch:
        prepared, seed = self.prepared, self.config.seed
        indices = batch_indices(prepared.data.repeats, seed, self.step, self.config.batch_size)
        generator = generator_for(seed, "step", self.step)
        return draw_batch(prepared.data, indices, prepared.schedule, generator, prepared.accelerator.device)

    def _losses(self, run: RunRecord, batch: Batch) -> dict[str, Tensor]:
        """Return the losses by name; the prediction's own has the empty name."""
        with self.prepared.accelerator.autocast():
            prediction = self.prepared.pipe.unet(batch.noisy, batch.timesteps, batch.context, return_dict=False)[0]
        losses = {"": prediction_loss(prediction, batch)}
        for extra in self._manager.hook.bwlab_extra_losses(run=run, batch=batch.tensors(), prediction=prediction):
            for name, loss in (extra or {}).items():
                if name in losses:
                    raise BwlabError(f"extra loss {name!r}", "two plugins give it", "Disable one of them")
                losses[name] = loss.float()
        return losses

    def _require_finite(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            if not bool(loss.isfinite()):
                found = f"the {f'extra loss {name!r}' if name else 'loss'} is {float(loss.detach())}"
                raise BwlabError(f"training step {self.step + 1}", found, "Lower training.lr or look at the data")
