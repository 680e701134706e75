"""One call of `bwlab generate`: check everything, generate the images, then write them and their grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from bwlab._version import __version__
from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import Scale, ScaledAdapter
from bwlab.adapters.names import adapter_name
from bwlab.base.conditioning import check_clip_skip
from bwlab.base.device import chosen_device, held_dtype
from bwlab.base.load import base_scheme, load_base, weights_hash
from bwlab.base.quiet import quiet_libraries
from bwlab.blocks.paths import in_unet
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec
from bwlab.files import make_folder
from bwlab.formats.dialects.textual_inversion import read_embedding
from bwlab.fusion.builtin import PLAIN_SUM
from bwlab.fusion.types import SUM, Fusion
from bwlab.generation.attach import load_for_pipeline
from bwlab.generation.checks import checked_grids, checked_job
from bwlab.generation.contact_sheet import contact_sheet
from bwlab.generation.controlnet import ControlNetInput, read_controlnet_input
from bwlab.generation.diffusers_pipelines import generated_size
from bwlab.generation.embeddings import attach_words
from bwlab.generation.grid import Grid, GridCell
from bwlab.generation.img2img import InitImage, read_init_image
from bwlab.generation.job import COMPEL, GenerateJob
from bwlab.generation.lora_tags import with_scales
from bwlab.generation.prompt_notes import notes_on_prompts
from bwlab.generation.prompt_weighting import check_prompts
from bwlab.generation.recipe import (
    GenerationRecipe,
    RecipeAdapter,
    RecipeControlNet,
    RecipeEmbedding,
    RecipeFusion,
    RecipeInitImage,
    file_hash,
    first_free_number,
    write_png,
)
from bwlab.generation.sample import generate, require_weights_read
from bwlab.generation.samplers import sampler_for
from bwlab.terminal import OnProgress, ProgressBar, counted, warn

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

    from bwlab.base.architectures import Pipeline
    from bwlab.formats.dialects.textual_inversion import Embedding
    from bwlab.plugins.manager import PluginManager


OnImage: TypeAlias = "Callable[[int, Image.Image], None]"
"""Function that is called with the index of an image and the image as soon as it is finished."""
GRID_PREFIX = "grid-"
XY_PREFIX = "xy-"


@dataclass(frozen=True, eq=False)
class SharedInputs:
    """The inputs that all images of a job share.

    Attributes:
        adapters: in the order of the cells' scales.
        negative: the negative prompt.
        init_image: the image that sampling starts from; None: noise.
        controlnet: a ControlNet and its image, or None.
        embeddings: embeddings of words that prompts may use.
        weighting: syntax of weights in prompts; None: prompts are read without weights.
        clip_skip: the layer of the text encoder that is read, counted from the last one, which is 1.
        fusion: how several adapters act together.
        width: of the images in pixels; None: that of the images that the base was made for.
        height: likewise.
        batch_size: number of images that are sampled at once, at most.

    """

    adapters: tuple[Adapter, ...] = ()
    negative: str = ""
    init_image: InitImage | None = None
    controlnet: ControlNetInput | None = None
    embeddings: tuple[Embedding, ...] = ()
    weighting: str | None = None
    clip_skip: int = 1
    fusion: Fusion = PLAIN_SUM
    width: int | None = None
    height: int | None = None
    batch_size: int = 8


def run_job(job: GenerateJob, manager: PluginManager, console: Console) -> list[Path]:
    """Generate a job's images and return the files written; nothing is written before everything is checked.

    Each image is written as soon as its batch is finished, so that an error or Ctrl-C later loses only the others.

    Raises:
        BwlabError: the base, an adapter, scale, schedule, embedding, init image, axis, sampler or folder is wrong.

    """
    job = checked_job(job, manager)
    device = chosen_device(job.device)
    pipe = load_base(job.base, held_dtype(job.precision, device), manager.model_families()).to(device)
    check_clip_skip(pipe, job.clip_skip)
    require_weights_read(pipe, job.weighting)
    job = replace(job, sampler=sampler_for(pipe, job.sampler).name)
    scheme = base_scheme(pipe, manager.block_schemes())
    job = with_scales(job, scheme)
    grids = checked_grids(job, scheme)
    cells = [cell for grid in grids for row in grid.cells for cell in row]
    if job.weighting == COMPEL:
        check_prompts({job.negative, *(cell.prompt for cell in cells)})
    for sampler in dict.fromkeys(cell.sampler for cell in cells):
        sampler_for(pipe, sampler)
    inputs = _shared_inputs(job, pipe, manager, scheme)
    _check_fusion(inputs.fusion, cells)
    _warn_of_prompts(job, pipe, cells, inputs)
    make_folder(job.out, f"--out {job.out}")
    template = _recipe_template(job, pipe, inputs)
    first, paths = 0 if job.overwrite else first_free_number(job.out), dict[int, Path]()

    def write(index: int, image: Image.Image) -> None:
        recipe, number = template.of(cells[index], image), first + index
        while (path := job.out / f"{number:04}-seed{recipe.seed}.png").exists() and not job.overwrite:
            number += 1  # another process writes to the same folder
        paths[index] = write_png(path, image, recipe, overwrite=job.overwrite)

    with ProgressBar(f"sampling {counted(len(cells), 'image')}", console=console) as bar:
        images = generate_cells(pipe, cells, inputs, bar.update, write)
    return [*(paths[index] for index in range(len(cells))), *_write_sheets(job, images, grids)]


def acting_in(cell: GridCell) -> int:
    """Return the number of adapters with a scale other than 0 in a block of the UNet, at any step."""
    scaled = zip(cell.scales, cell.schedules, strict=True)
    return sum(
        any(value and in_unet(path) for path, value in scale.values.items())
        and any(span.factor for span in schedule.spans)
        for scale, schedule in scaled
    )


def _check_fusion(fusion: Fusion, cells: Sequence[GridCell]) -> None:
    """Warn of a fusion that has nothing to do; `BwlabError` if it does not take so many adapters."""
    most = max(map(acting_in, cells))
    fusion.type.check_count(most)
    if fusion.type.name != SUM and most < 2:
        warn(f"--fusion {fusion.type.name} changes nothing: it needs two adapters with a scale other than 0")


def _warn_of_prompts(job: GenerateJob, pipe: Pipeline, cells: Sequence[GridCell], inputs: SharedInputs) -> None:
    """Print the warnings about the prompts; `BwlabError` if an embedding does not fit the base."""
    guided = any(cell.cfg > 1 for cell in cells)
    if job.negative and not guided:
        warn(f"--negative {job.negative!r} has no effect: there is guidance only with --cfg above 1")
    prompts = list(dict.fromkeys([*(cell.prompt for cell in cells), *([job.negative] if guided else [])]))
    with attach_words(pipe, inputs.embeddings), quiet_libraries():
        for note in notes_on_prompts(pipe, prompts, job.weighting):
            warn(note)


def _shared_inputs(job: GenerateJob, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> SharedInputs:
    strength = job.used_strength()
    size = generated_size(pipe, job.width, job.height)
    adapters = tuple(load_for_pipeline(path, pipe, manager, scheme) for path in job.adapters)
    return SharedInputs(
        adapters=adapters,
        negative=job.negative,
        init_image=None
        if job.image is None or strength is None
        else read_init_image(job.image, strength, job.mask, size),
        controlnet=_controlnet_input(job, pipe, size),
        embeddings=(
            *(read_embedding(path, word) for path, word in job.embedding_files()),
            *(embedding for adapter in adapters for embedding in adapter.embeddings),
        ),
        weighting=job.weighting,
        clip_skip=job.clip_skip,
        fusion=manager.fusion(job.fusion),
        width=job.width,
        height=job.height,
        batch_size=job.batch_size,
    )


def _controlnet_input(job: GenerateJob, pipe: Pipeline, size: tuple[int, int]) -> ControlNetInput | None:
    if job.controlnet is None or job.control_image is None:
        return None
    return read_controlnet_input(
        job.controlnet, job.control_image, job.control, pipe, job.control_scale, job.control_end, size
    )


def generate_cells(
    pipe: Pipeline,
    cells: Sequence[GridCell],
    inputs: SharedInputs,
    on_step: OnProgress | None = None,
    on_image: OnImage | None = None,
) -> list[Image.Image]:
    """Return one image for each cell.

    Args:
        pipe: the base.
        cells: the cells; cells that differ only in prompt, seed and scales are sampled in one batch.
        inputs: the inputs that the cells share.
        on_step: called with (finished sampling steps, all sampling steps); estimated if passes differ in steps.
        on_image: called with the index of each cell and its image, as soon as it is finished.

    """
    passes: dict[tuple[object, ...], list[int]] = {}
    for index, cell in enumerate(cells):
        passes.setdefault(cell.pass_key(), []).append(index)
    images: dict[int, Image.Image] = {}
    for indices in passes.values():
        report = _share_of_progress(on_step, len(images), len(indices), len(cells))

        def of_cell(row: int, image: Image.Image, indices: Sequence[int] = indices) -> None:
            images[indices[row]] = image
            if on_image is not None:
                on_image(indices[row], image)

        _one_pass(pipe, [cells[index] for index in indices], inputs, report, of_cell)
    return [images[index] for index in range(len(cells))]


def shared_scale(specs: Sequence[BlockSpec]) -> Scale:
    """Return one scale for several images: their common scale, or for each module one number per image."""
    if all(spec.values == specs[0].values for spec in specs):
        return specs[0]
    scales: dict[str, float | torch.Tensor] = {}
    for path in specs[0].values:
        numbers = [spec.values[path] for spec in specs]
        scales[path] = numbers[0] if len(set(numbers)) == 1 else torch.tensor(numbers)
    return scales


def _one_pass(
    pipe: Pipeline, cells: Sequence[GridCell], inputs: SharedInputs, on_step: OnProgress | None, on_image: OnImage
) -> None:
    first = cells[0]
    adapters = [
        ScaledAdapter(adapter, shared_scale([cell.scales[index] for cell in cells]), first.schedules[index])
        for index, adapter in enumerate(inputs.adapters)
    ]
    generate(
        pipe,
        [cell.prompt for cell in cells],
        [cell.seed for cell in cells],
        adapters,
        steps=first.steps,
        cfg=first.cfg,
        sampler=first.sampler,
        negative=inputs.negative,
        init_image=inputs.init_image,
        controlnet=inputs.controlnet,
        embeddings=inputs.embeddings,
        weighting=inputs.weighting,
        clip_skip=inputs.clip_skip,
        fusion=inputs.fusion,
        width=inputs.width,
        height=inputs.height,
        batch_size=inputs.batch_size,
        on_step=on_step,
        on_image=on_image,
    )


def _share_of_progress(on_step: OnProgress | None, before: int, count: int, whole: int) -> OnProgress | None:
    """Return the callback of a pass of `count` images after `before` of all images; each image counts 1000."""
    if on_step is None or count == whole:
        return on_step
    return lambda done, total: on_step(1000 * before + round(1000 * count * done / total), 1000 * whole)


@dataclass(frozen=True, eq=False)
class _RecipeTemplate:
    """The part of a recipe that all images of a job share."""

    job: GenerateJob
    base_hash: str
    adapter_hashes: Mapping[Path, str]
    embeddings: tuple[RecipeEmbedding, ...]
    init_image: RecipeInitImage | None
    controlnet: RecipeControlNet | None
    fusion: Fusion

    def of(self, cell: GridCell, image: Image.Image) -> GenerationRecipe:
        """Return the recipe of a cell's image."""
        scaled = list(zip(self.job.adapters, cell.scales, cell.schedules, strict=True))
        given = len(scaled) - self.job.tagged()
        scaled = scaled[:given] + [use for use in scaled[given:] if any(use[1].values.values())]
        return GenerationRecipe(
            prompt=cell.prompt,
            negative=self.job.negative,
            seed=cell.seed,
            steps=cell.steps,
            cfg=cell.cfg,
            sampler=cell.sampler,
            base=Path(self.job.base).name,
            base_hash=self.base_hash,
            width=image.width,
            height=image.height,
            version=__version__,
            adapters=tuple(
                RecipeAdapter(adapter_name(path), self.adapter_hashes[path], scale.text, schedule.text)
                for path, scale, schedule in scaled
            ),
            embeddings=self.embeddings,
            init_image=self.init_image,
            controlnet=self.controlnet,
            weighting=self.job.weighting or "",
            clip_skip=self.job.clip_skip,
            fusion=self._fusion(cell),
            precision=self.job.precision,
        )

    def _fusion(self, cell: GridCell) -> RecipeFusion | None:
        if self.fusion.type.name == SUM or acting_in(cell) < 2:
            return None
        return RecipeFusion(self.fusion.type.name, self.fusion.options)


def _recipe_template(job: GenerateJob, pipe: Pipeline, inputs: SharedInputs) -> _RecipeTemplate:
    embeddings = tuple(
        RecipeEmbedding(embedding.word, file_hash(Path(embedding.source))) for embedding in inputs.embeddings
    )
    return _RecipeTemplate(
        job,
        weights_hash(pipe),
        {path: file_hash(path) for path in dict.fromkeys(job.adapters)},
        embeddings,
        _recipe_init_image(job),
        _recipe_controlnet(job),
        inputs.fusion,
    )


def _recipe_init_image(job: GenerateJob) -> RecipeInitImage | None:
    strength = job.used_strength()
    if job.image is None or strength is None:
        return None
    return RecipeInitImage(file_hash(job.image), strength, None if job.mask is None else file_hash(job.mask))


def _recipe_controlnet(job: GenerateJob) -> RecipeControlNet | None:
    if job.controlnet is None or job.control_image is None:
        return None
    name, image_hash = Path(job.controlnet).name, file_hash(job.control_image)
    return RecipeControlNet(name, image_hash, job.control, job.control_scale, job.control_end)


def _write_sheets(job: GenerateJob, generated: Sequence[Image.Image], grids: Sequence[Grid]) -> list[Path]:
    """Write the contact sheets that the job asks for, and return their paths."""
    if not (job.grid or job.xy):
        return []
    prefix = XY_PREFIX if job.xy else GRID_PREFIX
    number = 0 if job.overwrite else first_free_number(job.out, prefix)
    images, paths = iter(generated), list[Path]()
    for index, grid in enumerate(grids):
        rows = [[next(images) for _ in row] for row in grid.cells]
        sheet = contact_sheet(rows, grid.columns, grid.rows, title=grid.title, footer=grid.footer)
        paths.append(write_png(job.out / f"{prefix}{number + index:04}.png", sheet, overwrite=job.overwrite))
    return paths
