"""From prompts and seeds to pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.adapters.attach import ScaledAdapter
from bwlab.errors import BwlabError
from bwlab.generation.attach import attach_scaled
from bwlab.generation.controlnet import ControlNetInput
from bwlab.generation.diffusers_pipelines import KeptOutside, Task, needs_own_mask, pipeline_for
from bwlab.generation.embeddings import attach_words
from bwlab.generation.img2img import InitImage, settings
from bwlab.generation.prompt_weighting import require_weighting, weighted_embeddings
from bwlab.generation.samplers import DEFAULT_SAMPLER

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.adapters.attach import Scale
    from bwlab.base.architectures import Pipeline
    from bwlab.formats.dialects.textual_inversion import Embedding
    from bwlab.terminal import OnProgress


def generate(
    pipe: Pipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    adapters: Sequence[ScaledAdapter] = (),
    steps: int = 25,
    cfg: float = 7.0,
    sampler: str = DEFAULT_SAMPLER,
    negative: str = "",
    *,
    start: InitImage | None = None,
    control: ControlNetInput | None = None,
    embeddings: Sequence[Embedding] = (),
    weighting: str | None = None,
    batch_size: int = 8,
    on_step: OnProgress | None = None,
) -> list[Image.Image]:
    """Return one picture for each prompt with the seed beside it.

    Adapters act inside this call only, on the UNet and, if they hold such layers, on the text encoders. Each picture's
    noise comes from a CPU generator of its own, so that it does not depend on the pictures beside it.

    Args:
        pipe: the base; its scheduler is not used but for the noise schedule, and is not changed.
        adapters: with their scales, and schedules; a scale per sample has one number for each prompt.
        steps: of the whole sampling; a start does only its strength's part of them.
        cfg: guidance scale; up to 1 means none, and the negative prompt has no effect.
        start: a picture to start from; None: noise.
        control: lines that say where things go; None: nothing does.
        embeddings: words that prompts may use.
        weighting: `"compel"` to read weights in prompts; None: prompts are read as they are.
        batch_size: pictures that are made at once.
        on_step: called with (sampling steps done, sampling steps in all).

    Raises:
        BwlabError: prompts and seeds differ in number, an adapter, word or start does not fit, or a name is unknown.

    """
    if len(prompts) != len(seeds):
        found = f"{len(prompts)} prompts and {len(seeds)} seeds"
        raise BwlabError("generating pictures", found, "Give one seed for each prompt")
    require_weighting(weighting)
    task: Task = "text" if start is None else "image" if start.mask is None or needs_own_mask(pipe) else "inpaint"
    painter = pipeline_for(pipe, sampler, task, None if control is None else control.net)
    work = _Work(painter, adapters, steps, cfg, negative, start, control, weighting)
    firsts = range(0, len(prompts), batch_size)
    done = steps if start is None else start.steps(steps)
    images: list[Image.Image] = []
    with attach_words(work.painter, embeddings):
        for index, first in enumerate(firsts):
            rows = slice(first, first + batch_size)
            report = _reporter(on_step, index * done, len(firsts) * done)
            images += _paint(work, prompts[rows], seeds[rows], rows, len(prompts), report)
    return images if start is None else [start.kept(image) for image in images]


@dataclass(frozen=True, eq=False)
class _Work:
    """What all batches of one call share."""

    painter: Any
    adapters: Sequence[ScaledAdapter]
    steps: int
    cfg: float
    negative: str
    start: InitImage | None
    control: ControlNetInput | None
    weighting: str | None

    def pictures(self, count: int) -> dict[str, object]:
        """Return what diffusers' pipelines are told of pictures to start from and of lines, for so many pictures."""
        led = {} if self.control is None else self.control.settings(count, beside_start=self.start is not None)
        return {**settings(self.start, count, masked=not needs_own_mask(self.painter)), **led}

    def after_step(self, seeds: Sequence[int], on_step: Callable[[int], None]) -> Callable[..., dict[str, object]]:
        """Return what diffusers' pipelines call after each step."""
        masked = self.start is not None and self.start.mask is not None and needs_own_mask(self.painter)
        keep = KeptOutside(self.painter, self.start, seeds) if masked and self.start is not None else None

        def call(_: object, step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, object]:
            if not bool(values["latents"].isfinite().all()):
                found = f"NaN or infinity after step {step + 1} of {self.steps}"
                raise BwlabError("painting", found, "Check adapters, their scales and --cfg; or paint in float32")
            on_step(step + 1)
            return {**values, "latents": keep(values["latents"], timestep)} if keep else dict(values)

        return call

    def acting(self, rows: slice, total: int, copies: int) -> list[ScaledAdapter]:
        """Return the adapters with scales per sample cut to `rows` of all samples and repeated `copies` times."""
        return [
            ScaledAdapter(scaled.adapter, _scale_for_rows(scaled.scale, rows, total, copies), scaled.schedule)
            for scaled in self.adapters
        ]


# What a pipeline takes in place of prompts: `prompt_embeds` and the like, by name.
Contexts = dict[str, Tensor | None]
CONTEXT_NAMES = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",  # this and the next are SDXL's
    "negative_pooled_prompt_embeds",
)


def _paint(
    work: _Work, prompts: Sequence[str], seeds: Sequence[int], rows: slice, total: int, report: Callable[[int], None]
) -> list[Image.Image]:
    with attach_scaled(work.painter, work.acting(rows, total, copies=1)):
        contexts = encode(work.painter, prompts, work.cfg, work.negative, work.weighting)
    # With guidance the UNet sees the batch twice: first with the negative, then with the positive prompt.
    with attach_scaled(work.painter, work.acting(rows, total, copies=2 if work.cfg > 1 else 1)):
        result = work.painter(
            **contexts,
            **work.pictures(len(seeds)),
            num_inference_steps=work.steps,
            guidance_scale=work.cfg,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            callback_on_step_end=work.after_step(seeds, report),
        )
    return list(result.images)


@torch.no_grad()
def encode(pipe: Any, prompts: Sequence[str], cfg: float, negative: str, weighting: str | None = None) -> Contexts:
    """Return text embeddings of the prompts and, with guidance, of the negative prompt.

    An empty negative prompt is what the base was made with: zeros for SDXL, the embedding of no text for others.
    """
    if weighting is not None:
        return weighted_embeddings(pipe, prompts, negative, cfg > 1)
    found = pipe.encode_prompt(
        list(prompts),
        device=pipe.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=cfg > 1,
        negative_prompt=[negative] * len(prompts) if negative else None,
    )
    return dict(zip(CONTEXT_NAMES, found, strict=False))


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


def _reporter(on_step: OnProgress | None, done: int, total: int) -> Callable[[int], None]:
    return lambda step: None if on_step is None else on_step(done + step, total)
