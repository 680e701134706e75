"""One call of `bwlab generate`: everything is checked, then painted, then written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab import __version__
from bwlab.adapters.adapter import Attached
from bwlab.adapters.loading import load_adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.formats.folders import make_folder
from bwlab.generation.png import first_free_number, write_png
from bwlab.generation.recipe import AdapterUse, Recipe
from bwlab.generation.sample import OnStep, generate
from bwlab.generation.samplers import DEFAULT_SAMPLER, sampler_named
from bwlab.generation.sheet import Label, contact_sheet
from bwlab.pipelines import AUTO, base_scheme, chosen_device, load_base, weights_hash

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image
    from rich.console import Console

    from bwlab.plugins import PluginManager

MAX_SEED = 2**63
GRID_PREFIX = "grid-"


@dataclass(frozen=True)
class GenerateJob:
    """What to paint.

    Attributes:
        adapters: files; `scales[i]` belongs to `adapters[i]`, those left over act at 1.
        device: as PyTorch names it, or `"auto"`.
        count: pictures a prompt, with seeds `seed`, `seed + 1`, ...
        grid: also write a sheet of all pictures.
        overwrite: number from 0 and replace files, instead of counting on.
    """

    prompts: tuple[str, ...]
    base: str = "emoji"
    adapters: tuple[Path, ...] = ()
    scales: tuple[str, ...] = ()
    negative: str = ""
    seed: int = 0
    count: int = 1
    steps: int = 25
    cfg: float = 7.0
    sampler: str = DEFAULT_SAMPLER
    device: str = AUTO
    out: Path = Path("pictures")
    grid: bool = False
    overwrite: bool = False

    def paired_scales(self) -> tuple[str, ...]:
        """Return one scale for each adapter; `BwlabError` if more are given than adapters."""
        if len(self.scales) > len(self.adapters):
            found = f"{len(self.scales)} scales for {len(self.adapters)} adapters"
            raise BwlabError("bwlab generate", found, "Give at most one --scale for each --adapter, in order")
        return self.scales + ("1",) * (len(self.adapters) - len(self.scales))

    def seeds(self) -> range:
        """Return the seeds that each prompt is painted with."""
        return range(self.seed, self.seed + self.count)


def run_job(job: GenerateJob, manager: PluginManager, console: Console) -> list[Path]:
    """Paint a job's pictures and return the files written; nothing is written before all is checked.

    Raises:
        BwlabError: base, adapter, scale, sampler or folder is wrong.
    """
    _check(job)
    device = chosen_device(job.device)
    pipe = load_base(job.base).to(device)
    scheme = base_scheme(pipe, manager)
    adapters = [
        load_attached(path, scale, pipe, manager, scheme)
        for path, scale in zip(job.adapters, job.paired_scales(), strict=True)
    ]
    make_folder(job.out, f"--out {job.out}")
    prompts = [prompt for prompt in job.prompts for _ in job.seeds()]
    seeds = [seed for _ in job.prompts for seed in job.seeds()]
    with sampling_bar(console, f"{len(prompts)} pictures") as on_step:
        images = generate(
            pipe,
            prompts,
            seeds,
            adapters,
            steps=job.steps,
            cfg=job.cfg,
            sampler=job.sampler,
            negative=job.negative,
            on_step=on_step,
        )
    recipes = _recipes(job, pipe, prompts, seeds, images)
    return _write(job, images, recipes)


def load_attached(
    path: Path, scale: str, pipe: StableDiffusionPipeline, manager: PluginManager, scheme: BlockScheme
) -> Attached:
    """Return the adapter of a file at a scale: a number or block spec, where blocks not named keep 1.

    Raises:
        BwlabError: the file is missing, broken or of another architecture, or the scale is wrong.
    """
    spec = parse_spec(scale, scheme, kind="scale", default=1.0)
    adapter = load_adapter(path, pipe.unet, manager, scheme, text_encoder=pipe.text_encoder)
    return Attached(adapter.to(pipe.device), spec)


def adapter_use(path: Path, scale: str) -> AdapterUse:
    """Return an adapter file as recipes name it."""
    return AdapterUse(adapter_name(path), hashlib.sha256(path.read_bytes()).hexdigest(), scale)


def adapter_name(path: Path) -> str:
    """Return a short name of an adapter file; every run writes an `adapter.safetensors`, so those go by their run.

    >>> adapter_name(Path("loras/fox.safetensors")), adapter_name(Path("runs/ink/adapter.safetensors"))
    ('fox', 'ink')
    """
    return path.parent.name or path.stem if path.name == "adapter.safetensors" else path.stem


@contextmanager
def sampling_bar(console: Console, text: str) -> Iterator[OnStep]:
    """Draw a progress bar while the block runs; yields what moves it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _check(job: GenerateJob) -> None:
    """Raise `BwlabError` for what can be told before the base is loaded."""
    sampler_named(job.sampler)
    job.paired_scales()
    _check_range("--seed", job.seed, 0, MAX_SEED - job.count)
    _check_range("--count", job.count, 1, 100_000)
    _check_range("--steps", job.steps, 1, 1000)
    _check_range("--cfg", job.cfg, 0, 1000)
    for path in job.adapters:
        if not path.is_file():
            found = "a folder, not a file" if path.is_dir() else "no such file"
            raise BwlabError(f"--adapter {path}", found, "Give an adapter's .safetensors file")


def _check_range(option: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # so NaN is out of range too
        raise BwlabError(f"{option} {value}", "out of range", f"Give {least} to {most}")


def _recipes(
    job: GenerateJob,
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    images: Sequence[Image.Image],
) -> list[Recipe]:
    uses = tuple(adapter_use(path, scale) for path, scale in zip(job.adapters, job.paired_scales(), strict=True))
    base_hash, base = weights_hash(pipe), Path(job.base).name
    return [
        Recipe(
            prompt=prompt,
            negative=job.negative,
            seed=seed,
            steps=job.steps,
            cfg=job.cfg,
            sampler=job.sampler,
            base=base,
            base_hash=base_hash,
            width=image.width,
            height=image.height,
            version=__version__,
            adapters=uses,
        )
        for prompt, seed, image in zip(prompts, seeds, images, strict=True)
    ]


def _write(job: GenerateJob, images: Sequence[Image.Image], recipes: Sequence[Recipe]) -> list[Path]:
    first = 0 if job.overwrite else first_free_number(job.out)
    paths = [
        write_png(job.out / f"{first + index:04}-seed{recipe.seed}.png", image, recipe, overwrite=job.overwrite)
        for index, (image, recipe) in enumerate(zip(images, recipes, strict=True))
    ]
    if job.grid:
        number = 0 if job.overwrite else first_free_number(job.out, GRID_PREFIX)
        paths.append(write_png(job.out / f"{GRID_PREFIX}{number:04}.png", _grid(job, images), overwrite=job.overwrite))
    return paths


def _grid(job: GenerateJob, images: Sequence[Image.Image]) -> Image.Image:
    """Return a sheet with a row for each prompt and a column for each seed."""
    cells = [images[start : start + job.count] for start in range(0, len(images), job.count)]
    pairs = zip(job.adapters, job.paired_scales(), strict=True)
    adapters = ", ".join(f"{adapter_name(path)} at {scale}" for path, scale in pairs) or "no adapter"
    footer = f"{Path(job.base).name}, {adapters}; {job.sampler}, {job.steps} steps, cfg {job.cfg:g}"
    columns = [Label(f"seed {seed}") for seed in job.seeds()]
    return contact_sheet(cells, columns, [Label(prompt) for prompt in job.prompts], footer=footer)
