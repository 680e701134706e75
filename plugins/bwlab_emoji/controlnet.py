"""A ControlNet (arXiv 2302.05543) for the embedded base, trained on Canny edges of emoji art.

The base's UNet stays as it is. Half of the views are mirrored, moved and scaled, and three captions in ten are left
out, so that only the edges show where a line is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from bwlab_emoji.scoring.data import resampled, unmultiplied
from bwlab_emoji.training import StageLog, TrainingFile, let_all_read
from bwlab_emoji.unet import noised, trapezoid
from bwlab_emoji.vae import mixed_precision

if TYPE_CHECKING:
    from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel

PEAK_RATE = 5e-4
CAPTION_DROPOUT = 0.3
EMBEDDING_CHANNELS = (16, 32, 64)  # the size is halved between two of them: from edges of 64 px to latents of 16


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """Return an untrained ControlNet that starts from the UNet's encoder and changes nothing yet."""
    from diffusers import ControlNetModel

    net: ControlNetModel = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=EMBEDDING_CHANNELS)
    return net


@dataclass(frozen=True)
class EdgePool:
    """The training data of the ControlNet.

    Attributes:
        latents: `(images, 8, 16, 16)`.
        edges: `(images, 64, 64)` bool.
        tokens: `(images, 32)` caption token ids.
        empty: `(32,)` token ids of the empty caption.

    """

    latents: Tensor
    edges: Tensor
    tokens: Tensor
    empty: Tensor


@torch.no_grad()
def edge_pool(
    pipe: StableDiffusionPipeline, art: npt.NDArray[np.uint8], captions: Sequence[str], generator: torch.Generator
) -> EdgePool:
    """Return latents, edges and captions of each drawing, and of each drawing moved, over white.

    Args:
        pipe: the embedded base.
        art: `(drawings, 64, 64, 4)`.
        captions: a caption for each drawing.
        generator: source of the random moves.

    """
    from bwlab.base.latents import encode_images
    from bwlab.generation.controlnet import canny_lines

    plain = torch.from_numpy(np.ascontiguousarray(art.transpose(0, 3, 1, 2))).float() / 255
    drawings = torch.cat([plain, moved(plain, generator)])
    images = drawings[:, :3] * drawings[:, 3:] + 1 - drawings[:, 3:]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    edges = [torch.from_numpy(canny_lines(grey.double().numpy())) > 0 for grey in (images * luma).sum(1)]
    latents = encode_images(pipe.vae, images * 2 - 1, at_once=64).mean
    tokens = pipe.tokenizer([*captions, ""], padding="max_length", return_tensors="pt").input_ids
    return EdgePool(latents, torch.stack(edges), tokens[:-1].repeat(2, 1), tokens[-1])


def moved(art: Tensor, generator: torch.Generator) -> Tensor:
    """Return RGBA `(batch, 4, h, w)` in 0..1 at 0.87..1.18 of its size, moved by up to 4 px, half of it mirrored."""
    count = len(art)
    scale = 0.85 + 0.3 * torch.rand(count, generator=generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (8 / art.shape[-1])
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = scale * mirror, scale, shift
    return unmultiplied(resampled(art, matrix))


class ControlTraining:
    """A restartable training of the ControlNet by the base's own objective.

    Args:
        pipe: the embedded base, frozen here.
        pool: images and edges.
        folder: the folder of the checkpoint.
        steps: optimiser steps in all.
        batch: images in a step.
        seed: seed for sampling.

    """

    def __init__(
        self, pipe: StableDiffusionPipeline, pool: EdgePool, folder: Path, steps: int, batch: int = 32, seed: int = 0
    ) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        self.pipe, self.pool, self.steps, self.batch = pipe, pool, steps, batch
        for model in (pipe.unet, pipe.text_encoder, pipe.vae):
            model.requires_grad_(False).eval()
        self.net = new_controlnet(pipe.unet).train()
        for model in (self.net, pipe.unet):
            model.set_attn_processor(AttnProcessor())  # its backward pass is the fast one in bfloat16 on a CPU
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self._signal = pipe.scheduler.alphas_cumprod.float()
        self.generator = torch.Generator().manual_seed(seed)
        self._checkpoint = TrainingFile(
            folder / "controlnet.pt", {"model": self.net, "optimizer": self.optimizer}, self.generator
        )
        self.step: int = self._checkpoint.restore().get("step", 0)

    def save(self) -> None:
        """Write the checkpoint, replacing the last one only when it is complete."""
        self._checkpoint.save(self.step)

    def _loss(self) -> Tensor:
        chosen = torch.randint(len(self.pool.latents), (self.batch,), generator=self.generator)
        latents = self.pool.latents[chosen]
        edges = self.pool.edges[chosen].float()[:, None].expand(-1, 3, -1, -1)
        dropped = torch.rand(self.batch, 1, generator=self.generator) < CAPTION_DROPOUT
        tokens = torch.where(dropped, self.pool.empty, self.pool.tokens[chosen])
        noisy, times, target = noised(latents, self._signal, self.generator)
        with mixed_precision(True):
            context = self.pipe.text_encoder(tokens)[0]
            down, mid = self.net(noisy, times, context, edges, return_dict=False)
            prediction = self.pipe.unet(
                noisy,
                times,
                context,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
                return_dict=False,
            )[0]
        return functional.mse_loss(prediction.float(), target)

    def _learn(self) -> float:
        loss = self._loss()
        for group in self.optimizer.param_groups:
            group["lr"] = PEAK_RATE * trapezoid(self.step, self.steps)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return float(loss.detach())

    def run(self, log: StageLog, save_every: int = 250) -> ControlNetModel:
        """Train to the last step, with a checkpoint every `save_every` steps, and return the model."""
        while self.step < self.steps:
            log.step(self.step + 1, self.steps, self._learn())
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()
        return self.net.eval()


def save_controlnet(net: ControlNetModel, out: Path) -> None:
    """Write the ControlNet in half precision as an ordinary diffusers folder."""
    import copy

    halved = copy.deepcopy(net).to(torch.float16)
    halved.register_to_config(_name_or_path="")
    halved.save_pretrained(out)
    let_all_read(out)
