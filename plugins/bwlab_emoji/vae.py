"""Stage `vae`: the embedded base's AutoencoderKL, trained on emoji art."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bwlab.training.device import multiplies_bf16
from bwlab_emoji.training import StageLog, TrainingFile

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CHANNELS = (32, 64, 96)
LATENT_CHANNELS = 8
PEAK_RATE = 2e-3
KL_WEIGHT = 5e-4


def new_autoencoder() -> AutoencoderKL:
    """Return an untrained AutoencoderKL: 64 x 64 images to 16 x 16 latents of 8 channels.

    Group norm uses 4 groups: with one to three channels a group it normalises an image's mean colours
    away, and the decoder then shows everything green in grey.
    """
    from diffusers import AutoencoderKL
    from diffusers.models.attention_processor import AttnProcessor

    stages = len(CHANNELS)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=1.0,
        force_upcast=False,
    )
    vae.set_attn_processor(AttnProcessor())
    return vae.to(memory_format=torch.channels_last)


def learning_rate(step: int, steps: int, peak: float = PEAK_RATE, warm_up: int = 200) -> float:
    """Return the rate at `step`: linear warm-up, then a cosine down to 1 % of `peak`."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    along = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * along)))


def random_backgrounds(art: Tensor, generator: torch.Generator) -> Tensor:
    """Composite `(batch, 4, h, w)` art in 0..1 over white (half of them) or random colours; to -1..1."""
    count = art.shape[0]
    colours = torch.rand(count, 3, 1, 1, generator=generator)
    white = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    colours = torch.where(white, torch.ones_like(colours), colours)
    alpha = art[:, 3:]
    return (art[:, :3] * alpha + colours * (1 - alpha)) * 2 - 1


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return L1 + 4 MSE of images in -1..1 plus L1 of their horizontal and vertical differences."""
    error = output - target
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 4 * error.square().mean() + 0.5 * edges


def peak_signal_to_noise(output: Tensor, target: Tensor) -> float:
    """Return the mean PSNR over images in dB, both `(batch, 3, h, w)` in -1..1; higher is better."""
    mse = ((output - target).clamp(-2, 2) / 2).square().flatten(1).mean(1)
    return float((-10 * torch.log10(mse + 1e-10)).mean())


@contextmanager
def mixed_precision(enabled: bool) -> Iterator[None]:
    """Run the block in bfloat16 autocast where `enabled`; in float32 on CPUs that multiply bfloat16 in software."""
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled and multiplies_bf16()):
        yield


class AutoencoderTraining:
    """A restartable training of the autoencoder.

    Args:
        art: `(images, 4, 64, 64)` uint8 RGBA to learn from.
        unseen: the same, of identities that are only measured, never learned.
        folder: the folder of the checkpoint.
        steps: optimiser steps in all; the last tenth runs in float32.
        batch: images in a step.
        seed: seed for initial weights, sampling, backgrounds and posterior noise.

    """

    def __init__(self, art: Tensor, unseen: Tensor, folder: Path, steps: int, batch: int = 8, seed: int = 0) -> None:
        self.art, self.unseen, self.folder, self.steps, self.batch = art, unseen, folder, steps, batch
        torch.manual_seed(seed)
        self.vae = new_autoencoder()
        self.optimizer = torch.optim.AdamW(self.vae.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01)
        self.generator = torch.Generator().manual_seed(seed)
        self._checkpoint = TrainingFile(
            folder / "vae.pt", {"vae": self.vae, "optimizer": self.optimizer}, self.generator
        )
        self.step: int = self._checkpoint.restore().get("step", 0)

    def _save(self) -> None:
        self._checkpoint.save(self.step)

    def _learn(self) -> float:
        chosen = torch.randint(len(self.art), (self.batch,), generator=self.generator)
        art = self.art[chosen].float() / 255
        flipped = torch.rand(self.batch, generator=self.generator) < 0.5
        art[flipped] = art[flipped].flip(-1)
        images = random_backgrounds(art, self.generator).to(memory_format=torch.channels_last)
        with mixed_precision(self.step < 0.9 * self.steps):
            posterior = self.vae.encode(images).latent_dist
            output = self.vae.decode(posterior.sample(self.generator)).sample
        divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
        loss = reconstruction_loss(output.float(), images) + KL_WEIGHT * divergence
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps)
        loss.backward()
        nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def measure(self, count: int = 64) -> float:
        """Return the PSNR in dB on unseen identities over white."""
        art = self.unseen[:: max(1, len(self.unseen) // count)][:count].float() / 255
        images = (art[:, :3] * art[:, 3:] + 1 - art[:, 3:]) * 2 - 1
        output = self.vae.decode(self.vae.encode(images).latent_dist.mode()).sample
        return peak_signal_to_noise(output.clamp(-1, 1), images)

    def run(self, log: StageLog) -> AutoencoderKL:
        """Train to the last step and return the autoencoder with centred latents."""
        while self.step < self.steps:
            loss = self._learn()
            log.step(self.step, self.steps, loss)
            if self.step % 500 == 0 or self.step == self.steps:
                log.measured(self.step, psnr_unseen=self.measure())
                self._save()
        self._normalise_latents()
        return self.vae

    @torch.no_grad()
    def _normalise_latents(self) -> None:
        """Fold shift and scale into the 1 x 1 quantisation convs, so that each latent channel has mean 0.

        The scale is the deviation of all latents around their common mean, before the channels are centred, so the
        variance that remains is somewhat below 1 (0.69 on the emoji art). The pipeline multiplies latents by one
        scaling factor and knows no shift; the convs can hold both.
        """
        white = (self.art[::4].float() / 255).split(64)
        means = [self.vae.encode(random_backgrounds(a, self.generator)).latent_dist.mean for a in white]
        latents = torch.cat(means)
        shift = latents.mean(dim=(0, 2, 3))
        scale = latents.std()
        channels = LATENT_CHANNELS
        encode, decode = self.vae.quant_conv, self.vae.post_quant_conv
        decode.bias += decode.weight[:, :, 0, 0] @ shift
        decode.weight *= scale
        encode.bias[:channels] -= shift
        encode.weight[:channels] /= scale
        encode.bias[:channels] /= scale
        encode.bias[channels:] -= 2 * torch.log(scale)
