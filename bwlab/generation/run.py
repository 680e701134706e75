"""One call of `bwlab generate`: everything is checked, then painted, then written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab import __version__
from bwlab.adapters.adapter import Attached
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.composition.attach import loaded, words_of
from bwlab.composition.words import check_words
from bwlab.formats.embedding_files import read_embedding
from bwlab.formats.folders import make_folder
from bwlab.generation.checks import check_job, check_variant
from bwlab.generation.control import Control, read_control
from bwlab.generation.job import GenerateJob
from bwlab.generation.plan import Sheet, sheets_of
from bwlab.generation.png import first_free_number, write_png
from bwlab.generation.recipe import ControlUse, Recipe, StartUse, WordUse, adapter_use, file_hash
from bwlab.generation.sample import OnStep
from bwlab.generation.sheet import contact_sheet
from bwlab.generation.start import read_start
from bwlab.generation.variant import Setting, Variant, paint
from bwlab.generation.weighting import check_prompts
from bwlab.pipelines import base_scheme, chosen_device, load_base, weights_hash

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

    from bwlab.pipelines import Pipeline
    from bwlab.plugins import PluginManager

GRID_PREFIX = "grid-"
XY_PREFIX = "xy-"


@dataclass(frozen=True, eq=False)
class Painted:
    """A picture with how it was made."""

    image: Image.Image
    recipe: Recipe


def run_job(job: GenerateJob, manager: PluginManager, console: Console) -> list[Path]:
    """Paint a job's pictures and return the files written; nothing is written before all is checked.

    Raises:
        BwlabError: base, adapter, scale, schedule, word, start, axis, sampler or folder is wrong.
    """
    check_job(job)
    pipe = load_base(job.base).to(chosen_device(job.device))
    scheme = base_scheme(pipe, manager)
    sheets = sheets_of(job, scheme)
    variants = [variant for sheet in sheets for row in sheet.cells for variant in row]
    for variant in variants:
        check_variant(variant, job.used_strength())
    if job.weighting:
        check_prompts({job.negative, *(variant.prompt for variant in variants)})
    setting = _setting(job, pipe, manager, scheme)
    check_words(pipe, setting.embeddings)
    make_folder(job.out, f"--out {job.out}")
    with sampling_bar(console, f"{len(variants)} pictures") as on_step:
        images = paint(pipe, variants, setting, on_step)
    template = _template(job, pipe, setting)
    painted = [Painted(image, template.of(variant, image)) for variant, image in zip(variants, images, strict=True)]
    return _write(job, painted, sheets)


def load_attached(path: Path, scale: str, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> Attached:
    """Return the adapter of a file at a scale: a number or block spec, where blocks not named keep 1.

    Raises:
        BwlabError: the file is missing, broken or of another architecture, or the scale is wrong.
    """
    spec = parse_spec(scale, scheme, kind="scale", default=1.0)
    return Attached(loaded(path, pipe, manager, scheme), spec)


@contextmanager
def sampling_bar(console: Console, text: str) -> Iterator[OnStep]:
    """Draw a progress bar while the block runs; yields what moves it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _setting(job: GenerateJob, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> Setting:
    strength = job.used_strength()
    return Setting(
        adapters=tuple(loaded(path, pipe, manager, scheme) for path in job.adapters),
        negative=job.negative,
        start=None if job.image is None or strength is None else read_start(job.image, strength, job.mask, pipe),
        embeddings=(
            *(read_embedding(path, word) for path, word in job.embedding_files()),
            *words_of(job.adapters, manager),
        ),
        weighting=job.weighting,
    )


def _control(job: GenerateJob, pipe: Pipeline) -> Control | None:
    if job.controlnet is None or job.control_image is None:
        return None
    return read_control(job.controlnet, job.control_image, job.control, pipe, job.control_scale, job.control_end)


@dataclass(frozen=True, eq=False)
class _Template:
    """What the recipes of all pictures of a job share."""

    job: GenerateJob
    base_hash: str
    words: tuple[WordUse, ...]
    start: StartUse | None
    control: ControlUse | None

    def of(self, variant: Variant, image: Image.Image) -> Recipe:
        """Return a picture's recipe."""
        uses = zip(self.job.adapters, variant.scales, variant.schedules, strict=True)
        return Recipe(
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
            adapters=tuple(adapter_use(path, scale.text, schedule.text) for path, scale, schedule in uses),
            words=self.words,
            start=self.start,
            control=self.control,
            weighting=self.job.weighting or "",
        )


def _template(job: GenerateJob, pipe: Pipeline, setting: Setting) -> _Template:
    words = tuple(WordUse(one.word, file_hash(Path(one.source))) for one in setting.embeddings)
    strength, mask = job.used_strength(), None if job.mask is None else file_hash(job.mask)
    start = None if job.image is None or strength is None else StartUse(file_hash(job.image), strength, mask)
    return _Template(job, weights_hash(pipe), words, start, _control_use(job))


def _control_use(job: GenerateJob) -> ControlUse | None:
    if job.controlnet is None or job.control_image is None:
        return None
    shown = file_hash(job.control_image)
    return ControlUse(Path(job.controlnet).name, shown, job.control, job.control_scale, job.control_end)


def _write(job: GenerateJob, painted: Sequence[Painted], sheets: Sequence[Sheet]) -> list[Path]:
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
