"""Stage `unet`: the embedded base's UNet and text encoder, trained on cached latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from bwlab_emoji.text import WIDTH
from bwlab_emoji.training import AveragedTraining, TrainingFile
from bwlab_emoji.vae import LATENT_CHANNELS, mixed_precision

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

CHANNELS = (64, 96, 128, 160)
PEAK_RATE = 1e-3
TEXT_RATE = 3e-4
CAPTION_DROPOUT = 0.1


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

    def draw(self, count: int, generator: torch.Generator, *, coloured: bool) -> tuple[Tensor, Tensor]:
        """Return the images and the backgrounds of a batch, `(count,)` each; white, or half of them coloured."""
        images, backgrounds = self.latents.shape[:2]
        image = torch.randint(images, (count,), generator=generator)
        background = torch.randint(1, backgrounds, (count,), generator=generator)
        white = torch.rand(count, generator=generator) < (0.5 if coloured else 1)
        background[white] = 0
        return image, background


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


class DenoiserTraining(AveragedTraining):
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
        self.coloured_from, self.batch = coloured_from, batch
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
        parts: dict[str, nn.Module | torch.optim.Optimizer] = {"models": self._models, "optimizer": self.optimizer}
        super().__init__(self._models, TrainingFile(folder / "unet.pt", parts, self.generator), steps)

    def _batch(self) -> tuple[Tensor, Tensor]:
        image, background = self.pool.draw(self.batch, self.generator, coloured=self.step >= self.coloured_from)
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

    def _change(self) -> Tensor:
        loss = self._loss()
        factor = trapezoid(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        loss.backward()
        nn.utils.clip_grad_norm_(self._models.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def averaged(self) -> dict[str, dict[str, Tensor]]:
        """Return the state dicts of averaged `unet` and `text_encoder` weights."""
        return {
            name: {key.removeprefix(f"{name}."): v for key, v in self.average.items() if key.startswith(f"{name}.")}
            for name in ("unet", "text_encoder")
        }
