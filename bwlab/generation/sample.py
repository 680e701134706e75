"""Generate images from prompts and seeds, with adapters, an init image, a ControlNet and embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.adapters.attach import ScaledAdapter, acting_layers
from bwlab.base.conditioning import layers_skipped
from bwlab.base.families.family import ModelFamily, PromptEmbeddings, Task
from bwlab.base.models import family_of
from bwlab.base.quiet import quiet_libraries
from bwlab.errors import BwlabError
from bwlab.fusion.builtin import PLAIN_SUM
from bwlab.fusion.hooks import samples_by_adapter
from bwlab.fusion.types import Fusion
from bwlab.generation.attach import attach_scaled
from bwlab.generation.chunks import chunk_count
from bwlab.generation.controlnet import ControlNetInput
from bwlab.generation.diffusers_pipelines import KeptOutside, generated_size, needs_own_mask, pipeline_for
from bwlab.generation.embeddings import attach_words
from bwlab.generation.img2img import InitImage, settings
from bwlab.generation.job import COMPEL, require_weighting
from bwlab.generation.prompt_weighting import (
    chunked_context,
    pipeline_embeddings,
    weighted_context,
)
from bwlab.generation.samplers import AUTO

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
    sampler: str = AUTO,
    negative: str = "",
    *,
    init_image: InitImage | None = None,
    controlnet: ControlNetInput | None = None,
    embeddings: Sequence[Embedding] = (),
    weighting: str | None = None,
    clip_skip: int = 1,
    width: int | None = None,
    height: int | None = None,
    batch_size: int = 8,
    fusion: Fusion = PLAIN_SUM,
    fold: bool = False,
    encoded: Sequence[EncodedPrompts] | None = None,
    on_step: OnProgress | None = None,
    on_image: Callable[[int, Image.Image], None] | None = None,
) -> list[Image.Image]:
    """Return one image for each prompt, with the seed at the same index.

    Adapters act only inside this call, on the UNet and, if they have such layers, on the text encoders. The noise of
    each image comes from a separate CPU generator, so it does not depend on the other images of its batch. Long prompts
    are read in chunks (`bwlab.base.text_chunks`), except by compel, which cuts them.

    Args:
        pipe: the base; only the noise schedule of its scheduler is used, and nothing is changed.
        adapters: adapters with their scales and schedules; a scale per sample has one number for each prompt.
        steps: steps of the whole sampling; with an init image, only a share of them is done, given by its strength.
        cfg: guidance scale; 1 or less means no guidance, and the negative prompt has no effect.
        init_image: the image that sampling starts from; None: noise.
        controlnet: a ControlNet and its image, or None.
        embeddings: embeddings of words that prompts may use.
        weighting: `"compel"` or `"a1111"` to read weights in prompts; None: prompts are read without weights.
        clip_skip: the layer of the text encoder that is read, counted from the last one, which is 1.
        width: of the images in pixels; None: that of the images that the base was made for. Images from an init image
            have its size.
        height: likewise.
        batch_size: number of images that are sampled at once.
        fusion: how several adapters act together on the UNet.
        fold: whether adapters with one scale for all samples act through changed copies of the UNet's weights, where
            these are float32: quicker, for the memory of the changed weights, and equal up to rounding.
        encoded: the prompts as `encode_prompts` returns them; None: they are encoded here. Adapters of one call may
            not act on the text then, and no embeddings are given.
        on_step: called with (finished sampling steps, all sampling steps).
        on_image: called with the index and the image of each prompt as soon as its batch is finished.

    Raises:
        BwlabError: prompts and seeds differ in number; an adapter, an embedding or the init image does not
            fit; a name is unknown; or the text encoder has no such layer (`clip_skip`).

    """
    require_weights_read(pipe, weighting)
    if len(prompts) != len(seeds):
        found = f"{len(prompts)} prompts and {len(seeds)} seeds"
        raise BwlabError("generating images", found, "Give one seed for each prompt")
    require_weighting(weighting)
    task: Task = "text"
    if init_image is not None:
        task = "image" if init_image.mask is None or needs_own_mask(pipe) else "inpaint"
    size = generated_size(pipe, width, height) if width or height else None
    pipeline = pipeline_for(pipe, sampler, task, None if controlnet is None else controlnet.net)
    _require_steps(pipeline, steps)
    sampling = _Sampling(
        pipeline, adapters, steps, cfg, negative, init_image, controlnet, weighting, clip_skip, fusion, fold, size
    )
    steps_done = sampling.steps_done
    images: dict[int, Image.Image] = {}
    with attach_words(pipeline, embeddings):
        if encoded is None:
            counts = _chunk_counts(pipeline, prompts, negative if sampling.guided else "", weighting)
            kinds = list(zip(counts, sampling.adapters_by_row(len(prompts)), strict=True))
            encoded = [EncodedPrompts(rows) for rows in _batches(kinds, batch_size)]
        for index, batch in enumerate(encoded):
            report = _reporter(on_step, index * steps_done, len(encoded) * steps_done)
            sampled = _sample_batch(sampling, batch, prompts, seeds, report)
            for row, image in zip(batch.rows, sampled, strict=True):
                images[row] = image if init_image is None else init_image.kept(image)
                if on_image is not None:
                    on_image(row, images[row])
    return [images[index] for index in range(len(prompts))]


def _require_steps(pipeline: Any, steps: int) -> None:
    """Raise BwlabError for one step by a noise schedule that diffusers stretches to an end above 0: it would be NaN."""
    if steps == 1 and pipeline.scheduler.config.get("shift_terminal"):
        raise BwlabError("sampling in 1 step", "this base's noise schedule needs two", "Give 2 or more steps")


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Prompts that are sampled in one batch.

    Attributes:
        rows: their indices among all prompts.
        embeddings: arguments of the pipeline that replace them; None if they are still to be encoded.

    """

    rows: Sequence[int]
    embeddings: PromptEmbeddings | None = None


def encode_prompts(
    pipe: Pipeline, prompts: Sequence[str], cfg: float, negative: str, clip_skip: int = 1, batch_size: int = 8
) -> list[EncodedPrompts]:
    """Return prompts without weights in the batches in which `generate` samples them, with their embeddings."""
    guided = cfg > 1 and family_of(pipe).second_pass
    counts = _chunk_counts(pipe, prompts, negative if guided else "", None)
    return [
        EncodedPrompts(rows, encode(pipe, [prompts[row] for row in rows], cfg, negative, None, clip_skip))
        for rows in _batches([(count, ()) for count in counts], batch_size)
    ]


def require_weights_read(pipe: Pipeline, weighting: str | None) -> None:
    """Raise `BwlabError` if prompts have weights and the base's family does not read them."""
    family = family_of(pipe)
    if weighting is not None and not family.reads_chunks:
        found = f"bwlab reads no weights in prompts for {family.label}"
        raise BwlabError(f"--weighting {weighting}", found, "Leave it out")


def _chunk_counts(pipe: Any, prompts: Sequence[str], negative: str, weighting: str | None) -> list[int]:
    """Return the number of chunks of each prompt and the negative prompt."""
    counts = {prompt: _chunk_count(pipe, [prompt, negative], weighting) for prompt in dict.fromkeys(prompts)}
    return [counts[prompt] for prompt in prompts]


def _batches(kinds: Sequence[tuple[int, tuple[int, ...]]], batch_size: int) -> list[list[int]]:
    """Return the indices of the prompts of each batch; all prompts of a batch are of one kind.

    Args:
        kinds: for each prompt, its number of chunks and, where they must not be mixed, the adapters that act on it.
        batch_size: number of prompts in a batch.

    """
    batches: list[list[int]] = []
    for kind in sorted(set(kinds)):
        rows = [index for index, own in enumerate(kinds) if own == kind]
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return batches


def _chunk_count(pipe: Any, texts: Sequence[str], weighting: str | None) -> int:
    if weighting == COMPEL or not family_of(pipe).reads_chunks:
        return 1
    return max(chunk_count(pipe, text, weighting) for text in dict.fromkeys(texts))


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
    clip_skip: int
    fusion: Fusion
    fold: bool
    size: tuple[int, int] | None

    @property
    def family(self) -> ModelFamily:
        """The family of the base."""
        return family_of(self.pipeline)

    @property
    def guided(self) -> bool:
        """Whether there is a second pass for the negative prompt."""
        return self.cfg > 1 and self.family.second_pass

    @property
    def steps_done(self) -> int:
        """The number of steps that are done: with an init image, a share of all."""
        return self.steps if self.init_image is None else self.init_image.steps(self.steps)

    def size_arguments(self) -> dict[str, object]:
        """Return the arguments of diffusers' pipelines for the size of images; many take it from the init image."""
        options = dict(self.family.sampling_options(self.pipeline))
        size = self.size if self.init_image is None else self.init_image.image.size
        if size is None or "width" not in inspect.signature(self.pipeline.__call__).parameters:
            return options
        return {**options, "width": size[0], "height": size[1]}

    def image_arguments(self, count: int) -> dict[str, object]:
        """Return the arguments of diffusers' pipelines for the init image and the ControlNet, for `count` images."""
        with_init_image = self.init_image is not None
        control = (
            {}
            if self.controlnet is None
            else self.controlnet.settings(count, self.steps_done, with_init_image=with_init_image)
        )
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
            on_step(min(step + 1, self.steps_done))  # Heun takes most steps twice
            return {**values, "latents": keep(values["latents"], timestep)} if keep else dict(values)

        return call

    def adapters_of(self, rows: Sequence[int], total: int, copies: int) -> list[ScaledAdapter]:
        """Return the adapters with scales per sample cut to `rows` of all samples and repeated `copies` times."""
        return [
            ScaledAdapter(scaled.adapter, _scale_for_rows(scaled.scale, rows, total, copies), scaled.schedule)
            for scaled in self.adapters
        ]

    def adapters_by_row(self, total: int) -> list[tuple[int, ...]]:
        """Return for each sample the adapters that act on it, if a batch must have the same adapters; else nothing."""
        if self.fusion.mixes_samples():
            return [()] * total
        acts = samples_by_adapter(acting_layers(self.adapters_of(range(total), total, copies=1)))
        return [tuple(number for number, samples in acts.items() if samples.expand(total)[row]) for row in range(total)]


def _sample_batch(
    sampling: _Sampling,
    batch: EncodedPrompts,
    prompts: Sequence[str],
    seeds: Sequence[int],
    report: Callable[[int], None],
) -> list[Image.Image]:
    """Return the images of the prompts and seeds of a batch."""
    rows, total = batch.rows, len(prompts)
    own_seeds = [seeds[row] for row in rows]
    contexts = batch.embeddings
    if contexts is None:
        # Compel encodes a prompt in pieces, for which there are no scales per sample.
        groups = [[row] for row in rows] if sampling.weighting == COMPEL else [rows]
        contexts = _joined([_encoded(sampling, group, prompts) for group in groups])
    # With guidance most denoisers see the batch twice at once, with the negative and with the positive prompts.
    doubled = sampling.guided and sampling.family.doubles_batch
    adapters = sampling.adapters_of(rows, total, copies=2 if doubled else 1)
    with attach_scaled(sampling.pipeline, adapters, sampling.fusion, fold=sampling.fold):
        result = sampling.pipeline(
            **contexts,
            **{
                **sampling.size_arguments(),
                **sampling.family.guidance(sampling.cfg),
                **sampling.image_arguments(len(rows)),
            },
            num_inference_steps=sampling.steps,
            generator=[torch.Generator().manual_seed(seed) for seed in own_seeds],
            callback_on_step_end=sampling.after_step(own_seeds, report),
        )
    return list(result.images)


def _encoded(sampling: _Sampling, rows: Sequence[int], prompts: Sequence[str]) -> PromptEmbeddings:
    """Return the embeddings of the prompts of these rows, with the adapters that act on them."""
    adapters = sampling.adapters_of(rows, len(prompts), copies=1)
    if len(rows) == 1:
        adapters = [ScaledAdapter(one.adapter, _of_one_sample(one.scale), one.schedule) for one in adapters]
    with attach_scaled(sampling.pipeline, adapters):
        return encode(
            sampling.pipeline,
            [prompts[row] for row in rows],
            sampling.cfg,
            sampling.negative,
            sampling.weighting,
            sampling.clip_skip,
        )


def _joined(parts: Sequence[PromptEmbeddings]) -> PromptEmbeddings:
    """Return embeddings of prompts of the same length as those of one batch."""
    if len(parts) == 1:
        return parts[0]
    named = {name: [tensor for part in parts if (tensor := part[name]) is not None] for name in parts[0]}
    return {name: torch.cat(tensors) if tensors else None for name, tensors in named.items()}


@torch.no_grad()
def encode(
    pipe: Any, prompts: Sequence[str], cfg: float, negative: str, weighting: str | None = None, clip_skip: int = 1
) -> PromptEmbeddings:
    """Return text embeddings of the prompts and, with guidance, of the negative prompt.

    An empty negative prompt is encoded as the base expects: as zeros for SDXL, otherwise as the embedding of no text.
    All prompts and the negative prompt get as many chunks as the longest of them has.
    """
    guided = cfg > 1 and family_of(pipe).second_pass
    # Libraries warn of every long text, and bwlab reads it in chunks or says what is not read.
    with quiet_libraries(), layers_skipped(pipe, clip_skip):
        if weighting == COMPEL:
            return pipeline_embeddings(pipe, prompts, negative, guided, lambda texts: weighted_context(pipe, texts))
        if not family_of(pipe).reads_chunks:
            return family_of(pipe).prompt_embeddings(pipe, prompts, guided, negative)
        count = _chunk_count(pipe, [*prompts, negative if guided else ""], weighting)
        if weighting is None and count == 1:
            return family_of(pipe).prompt_embeddings(pipe, prompts, guided, negative)
        return pipeline_embeddings(
            pipe, prompts, negative, guided, lambda texts: chunked_context(pipe, texts, weighting, count)
        )


def _scale_for_rows(scale: Scale, rows: Sequence[int], total: int, copies: int) -> Scale:
    if isinstance(scale, Tensor):
        return _cut(scale, rows, total, copies)
    if isinstance(scale, dict):
        return {
            name: _cut(value, rows, total, copies) if isinstance(value, Tensor) else value
            for name, value in scale.items()
        }
    return scale


def _of_one_sample(scale: Scale) -> Scale:
    """Return the scales of a single sample as numbers."""
    if isinstance(scale, Tensor):
        return float(scale)
    if isinstance(scale, dict):
        return {name: float(value) if isinstance(value, Tensor) else value for name, value in scale.items()}
    return scale


def _cut(scale: Tensor, rows: Sequence[int], total: int, copies: int) -> Tensor:
    if scale.dim() == 0:
        return scale
    if scale.shape != (total,):
        found = f"a tensor of shape {tuple(scale.shape)} for {total} prompts"
        raise BwlabError("an adapter scale per sample", found, "Give one number for each prompt")
    return scale[list(rows)].repeat(copies)


def _reporter(on_step: OnProgress | None, done: int, total: int) -> Callable[[int], None]:
    return lambda step: None if on_step is None else on_step(done + step, total)
