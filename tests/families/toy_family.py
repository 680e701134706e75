"""A plugin with a model family of its own, written from docs/plugins.md: a small denoiser of linear blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from PIL import Image
from torch import Tensor, nn

from bwlab import hookimpl
from bwlab.base.families.family import ModelFamily, PipelineClasses, TextBatch
from bwlab.blocks.scheme import BlockScheme, Module


class ToyDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Three blocks of two linear layers on the pixels of latents, with the text added to each pixel."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, channels: int = 4, width: int = 12, text: int = 8, depth: int = 3, sample_size: int = 8) -> None:
        super().__init__()
        self.enter, self.read = nn.Linear(channels + 1, width), nn.Linear(text, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.leave = nn.Linear(width, channels)

    def forward(self, latents: Tensor, time: Tensor, words: Tensor) -> Tensor:
        times = (time / 1000).view(-1, 1, 1, 1).expand(-1, 1, *latents.shape[2:])
        hidden = self.enter(torch.cat([latents, times], 1).movedim(1, -1))
        hidden = hidden + self.read(words.mean(1))[:, None, None]
        for block in self.blocks:
            hidden = hidden + block(hidden)
        result: Tensor = self.leave(hidden).movedim(-1, 1)
        return result


class ToyPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Text to image with letters as tokens."""

    def __init__(self, denoiser: ToyDenoiser, vae: AutoencoderKL, scheduler: FlowMatchEulerDiscreteScheduler) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, vae=vae, scheduler=scheduler)
        self.vae_scale_factor = 4

    def words(self, prompts: Sequence[str]) -> Tensor:
        table = torch.randn(128, 8, generator=torch.Generator().manual_seed(0))
        rows = [[ord(letter) % 128 for letter in prompt.ljust(16)[:16]] for prompt in prompts]
        return table[torch.tensor(rows)].to(self.denoiser.dtype)

    @torch.no_grad()
    def __call__(
        self,
        prompt_embeds: Tensor,
        num_inference_steps: int,
        guidance_scale: float,
        generator: Sequence[torch.Generator],
        callback_on_step_end: Any,
    ) -> Any:
        latents = torch.stack([torch.randn(4, 8, 8, generator=one) for one in generator])
        self.scheduler.set_timesteps(num_inference_steps)
        for step, time in enumerate(self.scheduler.timesteps):
            prediction = self.denoiser(latents, time.expand(len(latents)), prompt_embeds)
            latents = self.scheduler.step(prediction, time, latents, return_dict=False)[0]
            latents = callback_on_step_end(self, step, time, {"latents": latents})["latents"]
        decoded = self.vae.decode(latents).sample.clamp(-1, 1).movedim(1, -1)
        pixels = ((decoded + 1) * 127.5).round().numpy().astype(np.uint8)
        return type("Output", (), {"images": [Image.fromarray(one) for one in pixels]})


def find_toy(config: Mapping[str, object]) -> BlockScheme | None:
    if config.get("_class_name") != "ToyDenoiser":
        return None
    count = int(str(config["depth"]))
    blocks = [f"toy{number}" for number in range(count)]
    modules = [
        *(Module(f"blocks.{number}", block, block) for number, block in enumerate(blocks)),
        *(Module(path, path, "rest") for path in ("enter", "read", "leave")),
    ]
    return BlockScheme("toy", tuple(modules), (("all", tuple(blocks)),), denoiser="toy denoiser")


class Toy(ModelFamily):
    """The family of `ToyPipeline`."""

    name = "toy"
    summary = "a denoiser of linear blocks"
    label = "the toy model"
    denoiser = "denoiser"
    kinds = ("ToyPipeline",)
    folders = ("denoiser", "vae", "scheduler")
    classes = PipelineClasses("ToyPipeline")
    second_pass = False

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        return find_toy(config)

    def pipeline_class(self, name: str) -> Any:
        return ToyPipeline

    def load_options(self, folder: Path) -> Mapping[str, object]:
        return {"denoiser": ToyDenoiser.from_pretrained(folder / "denoiser")}

    def encode(self, pipe: Any, captions: Sequence[str]) -> TextBatch:
        return TextBatch(pipe.words(captions))

    def prompt_embeddings(
        self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str
    ) -> dict[str, Tensor | None]:
        return {"prompt_embeds": pipe.words(prompts)}

    def conditions(self, pipe: Any, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
        return {"words": text.context}

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        prediction: Tensor = denoiser(latents, times, **conditions)
        return prediction

    def image_stream(self, output: Tensor) -> Tensor:
        return output.flatten(1, 2)

    def row_numbers(self, denoiser: Any, latents: Tensor) -> int:
        return int(latents[0, 0].numel()) * int(denoiser.config.width)


@hookimpl
def bwlab_register_model_families() -> list[ModelFamily]:
    return [Toy()]


def save_toy(folder: Path) -> Path:
    """Write a random pipeline of the family and return its folder."""
    from tests.conftest import tiny_autoencoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ToyPipeline(ToyDenoiser(), tiny_autoencoder(), FlowMatchEulerDiscreteScheduler()).save_pretrained(folder)
    return folder
