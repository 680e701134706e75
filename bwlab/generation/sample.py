"""From prompts and seeds to pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from bwlab.adapters.adapter import Attached, attach
from bwlab.conditioning import text_encoders
from bwlab.errors import BwlabError
from bwlab.generation.samplers import DEFAULT_SAMPLER, new_scheduler
from bwlab.pipelines import quiet_libraries

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.adapters.scales import Scale
    from bwlab.pipelines import Pipeline

OnStep = Callable[[int, int], None]


def generate(
    pipe: Pipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    adapters: Sequence[Attached] = (),
    steps: int = 25,
    cfg: float = 7.0,
    sampler: str = DEFAULT_SAMPLER,
    negative: str = "",
    *,
    batch_size: int = 8,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """Return one picture for each prompt with the seed beside it.

    Adapters act inside this call only, on the UNet and, if they hold such layers, on the text encoders. Each picture's
    noise comes from a CPU generator of its own, so that it does not depend on the pictures beside it.

    Args:
        pipe: the base; its scheduler is not used but for the noise schedule, and is not changed.
        adapters: with their scales; a scale per sample has one number for each prompt.
        cfg: guidance scale; up to 1 means none, and the negative prompt has no effect.
        batch_size: pictures that are made at once.
        on_step: called with (sampling steps done, sampling steps in all).

    Raises:
        BwlabError: prompts and seeds differ in number, an adapter does not fit, or the sampler is unknown.
    """
    if len(prompts) != len(seeds):
        found = f"{len(prompts)} prompts and {len(seeds)} seeds"
        raise BwlabError("generating pictures", found, "Give one seed for each prompt")
    painter = pipe_with_sampler(pipe, sampler)
    starts = range(0, len(prompts), batch_size)
    images: list[Image.Image] = []
    for index, start in enumerate(starts):
        rows = slice(start, start + batch_size)
        contexts = encode(painter, prompts[rows], adapters, rows, len(prompts), cfg, negative)
        report = _reporter(on_step, index * steps, len(starts) * steps)
        images += _paint(painter, contexts, seeds[rows], adapters, rows, len(prompts), steps, cfg, report)
    return images


def pipe_with_sampler(pipe: Pipeline, sampler: str) -> Pipeline:
    """Return a pipeline of the same models with another sampler; the given one keeps its own."""
    with quiet_libraries():
        components = {**pipe.components, "scheduler": new_scheduler(sampler, pipe)}
        if isinstance(pipe, StableDiffusionXLPipeline):
            zeros = pipe.config.force_zeros_for_empty_prompt
            painter = StableDiffusionXLPipeline(**components, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
        else:
            components["safety_checker"] = None
            painter = StableDiffusionPipeline(**components, requires_safety_checker=False)
    painter.set_progress_bar_config(disable=True)
    return painter


# What a pipeline takes in place of prompts: `prompt_embeds` and the like, by name.
Contexts = dict[str, Tensor | None]
CONTEXT_NAMES = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",  # this and the next are SDXL's
    "negative_pooled_prompt_embeds",
)


@torch.no_grad()
def encode(
    pipe: Pipeline,
    prompts: Sequence[str],
    adapters: Sequence[Attached],
    rows: slice,
    total: int,
    cfg: float,
    negative: str,
) -> Contexts:
    """Return text embeddings of the prompts and, with guidance, of the negative prompt.

    An empty negative prompt is what the base was made with: zeros for SDXL, the embedding of no text for others.
    """
    with attach(pipe.unet, *_for_rows(adapters, rows, total, copies=1), text_encoder=text_encoders(pipe)):
        found = pipe.encode_prompt(
            list(prompts),
            device=pipe.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=cfg > 1,
            negative_prompt=[negative] * len(prompts) if negative else None,
        )
    return dict(zip(CONTEXT_NAMES, found, strict=False))


def _paint(
    pipe: Pipeline,
    contexts: Contexts,
    seeds: Sequence[int],
    adapters: Sequence[Attached],
    rows: slice,
    total: int,
    steps: int,
    cfg: float,
    report: Callable[..., dict[str, object]],
) -> list[Image.Image]:
    # With guidance the UNet sees the batch twice: first with the negative, then with the positive prompt.
    copies = 2 if cfg > 1 else 1
    with attach(pipe.unet, *_for_rows(adapters, rows, total, copies), text_encoder=text_encoders(pipe)):
        result = pipe(
            **contexts,
            num_inference_steps=steps,
            guidance_scale=cfg,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            callback_on_step_end=report,
        )
    return list(result.images)


def _for_rows(adapters: Sequence[Attached], rows: slice, total: int, copies: int) -> list[Attached]:
    """Return the adapters with scales per sample cut to `rows` of all samples and repeated `copies` times."""
    return [Attached(use.adapter, _scale_for_rows(use.scale, rows, total, copies)) for use in adapters]


def _scale_for_rows(scale: Scale, rows: slice, total: int, copies: int) -> Scale:
    if isinstance(scale, Tensor):
        return _cut(scale, rows, total, copies)
    if isinstance(scale, dict):
        return {
            name: _cut(value, rows, total, copies) if isinstance(value, Tensor) else value
            for name, value in scale.items()
        }
    return scale


def _cut(scale: Tensor, rows: slice, total: int, copies: int) -> Tensor:
    if scale.dim() == 0:
        return scale
    if scale.shape != (total,):
        found = f"a tensor of shape {tuple(scale.shape)} for {total} prompts"
        raise BwlabError("an adapter scale per sample", found, "Give one number for each prompt")
    return scale[rows].repeat(copies)


def _reporter(on_step: OnStep | None, done: int, total: int) -> Callable[..., dict[str, object]]:
    def report(_: object, step: int, __: object, values: dict[str, object]) -> dict[str, object]:
        if on_step is not None:
            on_step(done + step + 1, total)
        return values

    return report
