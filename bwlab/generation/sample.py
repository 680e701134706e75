"""Generate images from prompts and seeds, with adapters, an init image, a ControlNet and embeddings."""

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
    init_image: InitImage | None = None,
    controlnet: ControlNetInput | None = None,
    embeddings: Sequence[Embedding] = (),
    weighting: str | None = None,
    batch_size: int = 8,
    on_step: OnProgress | None = None,
) -> list[Image.Image]:
    """Return one image for each prompt, with the seed at the same index.

    Adapters act only inside this call, on the UNet and, if they have such layers, on the text encoders. The noise of
    each image comes from a separate CPU generator, so it does not depend on the other images of its batch.

    Args:
        pipe: the base; only the noise schedule of its scheduler is used, and nothing is changed.
        adapters: adapters with their scales and schedules; a scale per sample has one number for each prompt.
        steps: steps of the whole sampling; with an init image, only a share of them is done, given by its strength.
        cfg: guidance scale; 1 or less means no guidance, and the negative prompt has no effect.
        init_image: the image that sampling starts from; None: noise.
        controlnet: a ControlNet and its image, or None.
        embeddings: embeddings of words that prompts may use.
        weighting: `"compel"` to read weights in prompts; None: prompts are read without weights.
        batch_size: number of images that are sampled at once.
        on_step: called with (finished sampling steps, all sampling steps).

    Raises:
        BwlabError: prompts and seeds differ in number; an adapter, an embedding or the init image does not
            fit; or a name is unknown.

    """
    if len(prompts) != len(seeds):
        found = f"{len(prompts)} prompts and {len(seeds)} seeds"
        raise BwlabError("generating images", found, "Give one seed for each prompt")
    require_weighting(weighting)
    task: Task = "text"
    if init_image is not None:
        task = "image" if init_image.mask is None or needs_own_mask(pipe) else "inpaint"
    pipeline = pipeline_for(pipe, sampler, task, None if controlnet is None else controlnet.net)
    sampling = _Sampling(pipeline, adapters, steps, cfg, negative, init_image, controlnet, weighting)
    firsts = range(0, len(prompts), batch_size)
    steps_done = steps if init_image is None else init_image.steps(steps)
    images: list[Image.Image] = []
    with attach_words(pipeline, embeddings):
        for index, first in enumerate(firsts):
            rows = slice(first, first + batch_size)
            report = _reporter(on_step, index * steps_done, len(firsts) * steps_done)
            images += _sample_batch(sampling, prompts[rows], seeds[rows], rows, len(prompts), report)
    return images if init_image is None else [init_image.kept(image) for image in images]


@dataclass(frozen=True, eq=False)
class _Sampling:
    """The settings that all batches of one call share."""

    pipeline: Any
    adapters: Sequence[ScaledAdapter]
    steps: int
    cfg: float
    negative: str
    init_image: InitImage | None
    controlnet: ControlNetInput | None
    weighting: str | None

    def image_arguments(self, count: int) -> dict[str, object]:
        """Return the arguments of diffusers' pipelines for the init image and the ControlNet, for `count` images."""
        with_init_image = self.init_image is not None
        control = {} if self.controlnet is None else self.controlnet.settings(count, with_init_image=with_init_image)
        return {**settings(self.init_image, count, masked=not needs_own_mask(self.pipeline)), **control}

    def after_step(self, seeds: Sequence[int], on_step: Callable[[int], None]) -> Callable[..., dict[str, object]]:
        """Return the callback of diffusers' pipelines after each step."""
        init = self.init_image
        masked = init is not None and init.mask is not None and needs_own_mask(self.pipeline)
        keep = KeptOutside(self.pipeline, init, seeds) if masked and init is not None else None

        def call(_: object, step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, object]:
            if not bool(values["latents"].isfinite().all()):
                found = f"NaN or infinity after step {step + 1} of {self.steps}"
                raise BwlabError("sampling", found, "Check the adapters, their scales and --cfg, or sample in float32")
            on_step(step + 1)
            return {**values, "latents": keep(values["latents"], timestep)} if keep else dict(values)

        return call

    def adapters_of(self, rows: slice, total: int, copies: int) -> list[ScaledAdapter]:
        """Return the adapters with scales per sample cut to `rows` of all samples and repeated `copies` times."""
        return [
            ScaledAdapter(scaled.adapter, _scale_for_rows(scaled.scale, rows, total, copies), scaled.schedule)
            for scaled in self.adapters
        ]


# Text embeddings that replace prompts in a pipeline, by name of the argument.
Contexts = dict[str, Tensor | None]
CONTEXT_NAMES = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",  # this and the next are for SDXL only
    "negative_pooled_prompt_embeds",
)


def _sample_batch(
    sampling: _Sampling,
    prompts: Sequence[str],
    seeds: Sequence[int],
    rows: slice,
    total: int,
    report: Callable[[int], None],
) -> list[Image.Image]:
    with attach_scaled(sampling.pipeline, sampling.adapters_of(rows, total, copies=1)):
        contexts = encode(sampling.pipeline, prompts, sampling.cfg, sampling.negative, sampling.weighting)
    # With guidance the UNet sees the batch twice: first with the negative, then with the positive prompt.
    with attach_scaled(sampling.pipeline, sampling.adapters_of(rows, total, copies=2 if sampling.cfg > 1 else 1)):
        result = sampling.pipeline(
            **contexts,
            **sampling.image_arguments(len(seeds)),
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.cfg,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            callback_on_step_end=sampling.after_step(seeds, report),
        )
    return list(result.images)


@torch.no_grad()
def encode(pipe: Any, prompts: Sequence[str], cfg: float, negative: str, weighting: str | None = None) -> Contexts:
    """Return text embeddings of the prompts and, with guidance, of the negative prompt.

    An empty negative prompt is encoded as the base expects: as zeros for SDXL, otherwise as the embedding of no text.
    """
    if weighting is not None:
        return weighted_embeddings(pipe, prompts, negative, cfg > 1)
    embeddings = pipe.encode_prompt(
        list(prompts),
        device=pipe.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=cfg > 1,
        negative_prompt=[negative] * len(prompts) if negative else None,
    )
    return dict(zip(CONTEXT_NAMES, embeddings, strict=False))


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
