"""One call of `bwlab generate`: everything is checked, then painted, then written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bwlab._version import __version__
from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import Scale, ScaledAdapter
from bwlab.adapters.schedule import parse_schedule
from bwlab.base.device import chosen_device
from bwlab.base.load import base_scheme, load_base, weights_hash
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec
from bwlab.files import make_folder
from bwlab.formats.dialects.textual_inversion import read_embedding
from bwlab.generation.attach import load_for_pipeline
from bwlab.generation.contact_sheet import contact_sheet
from bwlab.generation.controlnet import ControlNetInput, read_controlnet_input
from bwlab.generation.embeddings import check_words
from bwlab.generation.grid import GridCell, Sheet, _check_axes, check_variant, sheets_of
from bwlab.generation.img2img import InitImage, read_init_image
from bwlab.generation.job import MAX_SEED, GenerateJob, _check_control, _check_file, _check_start, check_range
from bwlab.generation.prompt_weighting import check_prompts, require_weighting
from bwlab.generation.recipe import (
    GenerationRecipe,
    RecipeControlNet,
    RecipeEmbedding,
    RecipeInitImage,
    file_hash,
    first_free_number,
    recipe_adapter,
    write_png,
)
from bwlab.generation.sample import generate
from bwlab.generation.samplers import sampler_named
from bwlab.terminal import OnProgress, ProgressBar, counted

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

    from bwlab.base.architectures import Pipeline
    from bwlab.formats.dialects.textual_inversion import Embedding
    from bwlab.plugins.manager import PluginManager


GRID_PREFIX = "grid-"
XY_PREFIX = "xy-"


@dataclass(frozen=True, eq=False)
class GeneratedImage:
    """A picture with how it was made."""

    image: Image.Image
    recipe: GenerationRecipe


def run_job(job: GenerateJob, manager: PluginManager, console: Console) -> list[Path]:
    """Paint a job's pictures and return the files written; nothing is written before all is checked.

    Raises:
        BwlabError: base, adapter, scale, schedule, word, start, axis, sampler or folder is wrong.

    """
    check_job(job)
    pipe = load_base(job.base).to(chosen_device(job.device))
    scheme = base_scheme(pipe, manager.block_schemes())
    sheets = sheets_of(job, scheme)
    variants = [variant for sheet in sheets for row in sheet.cells for variant in row]
    for variant in variants:
        check_variant(variant, job.used_strength())
    if job.weighting:
        check_prompts({job.negative, *(variant.prompt for variant in variants)})
    setting = _setting(job, pipe, manager, scheme)
    check_words(pipe, setting.embeddings)
    make_folder(job.out, f"--out {job.out}")
    with ProgressBar(f"sampling {counted(len(variants), 'image')}", console=console) as bar:
        images = generate_cells(pipe, variants, setting, bar.update)
    template = _template(job, pipe, setting)
    painted = [
        GeneratedImage(image, template.of(variant, image)) for variant, image in zip(variants, images, strict=True)
    ]
    return _write(job, painted, sheets)


def _setting(job: GenerateJob, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> SharedInputs:
    strength = job.used_strength()
    adapters = tuple(load_for_pipeline(path, pipe, manager, scheme) for path in job.adapters)
    return SharedInputs(
        adapters=adapters,
        negative=job.negative,
        start=None if job.image is None or strength is None else read_init_image(job.image, strength, job.mask, pipe),
        control=_control(job, pipe),
        embeddings=(
            *(read_embedding(path, word) for path, word in job.embedding_files()),
            *(embedding for adapter in adapters for embedding in adapter.embeddings),
        ),
        weighting=job.weighting,
    )


def _control(job: GenerateJob, pipe: Pipeline) -> ControlNetInput | None:
    if job.controlnet is None or job.control_image is None:
        return None
    return read_controlnet_input(
        job.controlnet, job.control_image, job.control, pipe, job.control_scale, job.control_end
    )


@dataclass(frozen=True, eq=False)
class _Template:
    """What the recipes of all pictures of a job share."""

    job: GenerateJob
    base_hash: str
    words: tuple[RecipeEmbedding, ...]
    start: RecipeInitImage | None
    control: RecipeControlNet | None

    def of(self, variant: GridCell, image: Image.Image) -> GenerationRecipe:
        """Return a picture's recipe."""
        uses = zip(self.job.adapters, variant.scales, variant.schedules, strict=True)
        return GenerationRecipe(
            prompt=variant.prompt,
            negative=self.job.negative,
            seed=variant.seed,
            steps=variant.steps,
            cfg=variant.cfg,
            sampler=variant.sampler,
            base=Path(self.job.base).name,
            base_hash=self.base_hash,
            width=image.width,
            height=image.height,
            version=__version__,
            adapters=tuple(recipe_adapter(path, scale.text, schedule.text) for path, scale, schedule in uses),
            words=self.words,
            start=self.start,
            control=self.control,
            weighting=self.job.weighting or "",
        )


def _template(job: GenerateJob, pipe: Pipeline, setting: SharedInputs) -> _Template:
    words = tuple(RecipeEmbedding(one.word, file_hash(Path(one.source))) for one in setting.embeddings)
    strength, mask = job.used_strength(), None if job.mask is None else file_hash(job.mask)
    start = None if job.image is None or strength is None else RecipeInitImage(file_hash(job.image), strength, mask)
    return _Template(job, weights_hash(pipe), words, start, _control_use(job))


def _control_use(job: GenerateJob) -> RecipeControlNet | None:
    if job.controlnet is None or job.control_image is None:
        return None
    shown = file_hash(job.control_image)
    return RecipeControlNet(Path(job.controlnet).name, shown, job.control, job.control_scale, job.control_end)


def _write(job: GenerateJob, painted: Sequence[GeneratedImage], sheets: Sequence[Sheet]) -> list[Path]:
    first = 0 if job.overwrite else first_free_number(job.out)
    paths = [
        write_png(
            job.out / f"{first + index:04}-seed{one.recipe.seed}.png", one.image, one.recipe, overwrite=job.overwrite
        )
        for index, one in enumerate(painted)
    ]
    if not (job.grid or job.xy):
        return paths
    prefix = XY_PREFIX if job.xy else GRID_PREFIX
    number = 0 if job.overwrite else first_free_number(job.out, prefix)
    images = iter([one.image for one in painted])
    for index, sheet in enumerate(sheets):
        cells = [[next(images) for _ in row] for row in sheet.cells]
        drawn = contact_sheet(cells, sheet.columns, sheet.rows, title=sheet.title, footer=sheet.footer)
        paths.append(write_png(job.out / f"{prefix}{number + index:04}.png", drawn, overwrite=job.overwrite))
    return paths


@dataclass(frozen=True, eq=False)
class SharedInputs:
    """What all pictures of a job share.

    Attributes:
        adapters: in the order of the variants' scales.
        start: a picture to start from; None: noise.
        control: lines that say where things go; None: nothing does.
        embeddings: words that prompts may use.
        weighting: the library that reads weights in prompts; None: none.

    """

    adapters: tuple[Adapter, ...] = ()
    negative: str = ""
    start: InitImage | None = None
    control: ControlNetInput | None = None
    embeddings: tuple[Embedding, ...] = ()
    weighting: str | None = None


def generate_cells(
    pipe: Pipeline, variants: Sequence[GridCell], setting: SharedInputs, on_step: OnProgress | None = None
) -> list[Image.Image]:
    """Return one picture for each variant.

    Args:
        pipe: the base.
        variants: those that differ in prompt, seed and scales only are painted side by side.
        setting: what they share.
        on_step: called with (sampling steps done, sampling steps in all, estimated by variants).

    """
    passes: dict[tuple[object, ...], list[int]] = {}
    for place, variant in enumerate(variants):
        passes.setdefault(variant.pass_key(), []).append(place)
    images: dict[int, Image.Image] = {}
    for places in passes.values():
        report = _share(on_step, len(images), len(places), len(variants))
        images |= zip(places, _one_pass(pipe, [variants[place] for place in places], setting, report), strict=True)
    return [images[place] for place in range(len(variants))]


def shared_scale(specs: Sequence[BlockSpec]) -> Scale:
    """Return one scale for several pictures: their common one, or for each module one number per picture."""
    if all(spec.values == specs[0].values for spec in specs):
        return specs[0]
    scales: dict[str, float | torch.Tensor] = {}
    for path in specs[0].values:
        numbers = [spec.values[path] for spec in specs]
        scales[path] = numbers[0] if len(set(numbers)) == 1 else torch.tensor(numbers)
    return scales


def _one_pass(
    pipe: Pipeline, variants: Sequence[GridCell], setting: SharedInputs, on_step: OnProgress | None
) -> list[Image.Image]:
    one = variants[0]
    acting = [
        ScaledAdapter(adapter, shared_scale([variant.scales[place] for variant in variants]), one.schedules[place])
        for place, adapter in enumerate(setting.adapters)
    ]
    return generate(
        pipe,
        [variant.prompt for variant in variants],
        [variant.seed for variant in variants],
        acting,
        steps=one.steps,
        cfg=one.cfg,
        sampler=one.sampler,
        negative=setting.negative,
        start=setting.start,
        control=setting.control,
        embeddings=setting.embeddings,
        weighting=setting.weighting,
        on_step=on_step,
    )


def _share(on_step: OnProgress | None, before: int, count: int, whole: int) -> OnProgress | None:
    """Return what a pass of `count` of all pictures calls, so that the whole counts from 0 to 1000 a picture."""
    if on_step is None or count == whole:
        return on_step
    return lambda done, total: on_step(1000 * before + round(1000 * count * done / total), 1000 * whole)


def check_job(job: GenerateJob) -> None:
    """Raise `BwlabError` for options out of range, unknown names, files that are not there."""
    sampler_named(job.sampler)
    require_weighting(job.weighting)
    job.paired_scales()
    for schedule in job.paired_schedules():
        parse_schedule(schedule)
    check_range("--seed", job.seed, 0, MAX_SEED - job.count)
    check_range("--count", job.count, 1, 100_000)
    check_range("--steps", job.steps, 1, 1000)
    check_range("--cfg", job.cfg, 0, 1000)
    for path in job.adapters:
        _check_file("--adapter", path, "Give an adapter's .safetensors file")
    for path, _ in job.embedding_files():
        _check_file("--embedding", path, "Give a textual-inversion file, or FILE=word")
    _check_start(job)
    _check_control(job)
    _check_axes(job)
