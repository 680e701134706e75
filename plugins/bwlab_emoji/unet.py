"""Stage `unet`: the embedded base's UNet and text encoder, trained on cached latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from bwlab_emoji.text import WIDTH
from bwlab_emoji.training import StageLog, TrainingFile
from bwlab_emoji.vae import LATENT_CHANNELS, mixed_precision

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

CHANNELS = (64, 96, 128, 160)
PEAK_RATE = 1e-3
TEXT_RATE = 3e-4
CAPTION_DROPOUT = 0.1
AVERAGE_DECAY = 0.999


def new_unet(seed: int = 0) -> UNet2DConditionModel:
    """Return an untrained UNet with the 4-1-4 blocks of Stable Diffusion 1.x, for 16 x 16 latents of 8 channels."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    # The backward pass of fused attention takes 2/5 of a bfloat16 step on a CPU; that of plain attention does not.
    unet.set_attn_processor(AttnProcessor())
    return unet


def new_scheduler() -> DPMSolverMultistepScheduler:
    """Return the noise schedule of Stable Diffusion with v-prediction, as a DPM++ 2M Karras sampler."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        steps_offset=1,
    )


@dataclass(frozen=True)
class LatentPool:
    """Cached training latents and their captions.

    Attributes:
        latents: `(images, backgrounds, 8, 16, 16)`; background 0 is white.
        tokens: `(images, backgrounds, 32)` caption token ids.
        empty: `(32,)` token ids of the empty caption.

    """

    latents: Tensor
    tokens: Tensor
    empty: Tensor


def trapezoid(step: int, steps: int, warm_up: int = 200, decay: float = 0.2) -> float:
    """Return the factor on the learning rate: linear warm-up, flat, linear to 0.01 over the last fifth."""
    left = (steps - step) / (decay * steps)
    return min(1.0, (step + 1) / warm_up, max(0.01, left))


def noised(latents: Tensor, signal: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy latents, timesteps `(batch,)` and the v that is to be predicted (arXiv 2202.00512, section 4).

    Args:
        latents: `(batch, channels, h, w)`, clean.
        signal: `(timesteps,)`, the share of the latents' variance that is left at each.
        generator: for noise and timesteps.

    """
    noise = torch.randn(latents.shape, generator=generator)
    times = torch.randint(len(signal), (len(latents),), generator=generator)
    kept = signal[times].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    return noisy, times, kept.sqrt() * noise - (1 - kept).sqrt() * latents


class DenoiserTraining:
    """A restartable training of UNet and text encoder by v-prediction.

    Args:
        pool: latents and captions.
        text_encoder: trained with the UNet, at a lower rate.
        folder: the folder of the checkpoint.
        steps: optimiser steps in all.
        coloured_from: step from which half of the images have a coloured background.
        batch: images in a step.
        seed: seed for initial weights and sampling.
        compile_unet: use `torch.compile` (needs a C++ compiler; pays after some 2,000 steps).

    """

    def __init__(
        self,
        pool: LatentPool,
        text_encoder: CLIPTextModel,
        folder: Path,
        steps: int,
        coloured_from: int,
        batch: int = 32,
        seed: int = 0,
        compile_unet: bool = False,
    ) -> None:
        self.pool, self.text_encoder, self.folder = pool, text_encoder, folder
        self.steps, self.coloured_from, self.batch = steps, coloured_from, batch
        self.unet = new_unet(seed)
        self._forward = torch.compile(self.unet) if compile_unet else self.unet
        self._models = nn.ModuleDict({"unet": self.unet, "text_encoder": text_encoder})
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.unet.parameters()), "peak": PEAK_RATE},
                {"params": list(text_encoder.parameters()), "peak": TEXT_RATE},
            ],
            lr=PEAK_RATE,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )
        self._signal = new_scheduler().alphas_cumprod.float()
        self.generator = torch.Generator().manual_seed(seed)
        self._checkpoint = TrainingFile(
            folder / "unet.pt", {"models": self._models, "optimizer": self.optimizer}, self.generator
        )
        state = self._checkpoint.restore()
        self.step: int = state.get("step", 0)
        self.average: dict[str, Tensor] = state.get("average") or {
            key: value.clone() for key, value in self._models.state_dict().items()
        }

    def save(self) -> None:
        """Write the checkpoint, replacing the last one only when it is complete."""
        self._checkpoint.save(self.step, average=self.average)

    def _batch(self) -> tuple[Tensor, Tensor]:
        images, backgrounds = self.pool.latents.shape[:2]
        image = torch.randint(images, (self.batch,), generator=self.generator)
        background = torch.randint(1, backgrounds, (self.batch,), generator=self.generator)
        white = torch.rand(self.batch, generator=self.generator) < (0.5 if self.step >= self.coloured_from else 1)
        background[white] = 0
        tokens = self.pool.tokens[image, background]
        dropped = torch.rand(self.batch, 1, generator=self.generator) < CAPTION_DROPOUT
        return self.pool.latents[image, background].float(), torch.where(dropped, self.pool.empty, tokens)

    def _loss(self) -> Tensor:
        latents, tokens = self._batch()
        noisy, times, target = noised(latents, self._signal, self.generator)
        with mixed_precision(True):
            context = self.text_encoder(tokens)[0]
            prediction = self._forward(noisy, times, context, return_dict=False)[0]
        return functional.mse_loss(prediction.float(), target)

    def _learn(self) -> float:
        loss = self._loss()
        factor = trapezoid(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        loss.backward()
        nn.utils.clip_grad_norm_(self._models.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._update_average()
        return float(loss.detach())

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.step % 10:
            return
        keep = min(AVERAGE_DECAY**10, self.step / (self.step + 100))
        for key, value in self._models.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - keep)

    def averaged(self) -> dict[str, dict[str, Tensor]]:
        """Return the state dicts of averaged `unet` and `text_encoder` weights."""
        return {
            name: {key.removeprefix(f"{name}."): v for key, v in self.average.items() if key.startswith(f"{name}.")}
            for name in ("unet", "text_encoder")
        }

    def run(self, log: StageLog, save_every: int = 500) -> None:
        """Train to the last step, with a checkpoint every `save_every` steps."""
        while self.step < self.steps:
            loss = self._learn()
            log.step(self.step, self.steps, loss)
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()
