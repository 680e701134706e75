"""The demo's pictures: each combination of adapters with the same prompt and seeds, and the sheet of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab import __version__
from bwlab.adapters.adapter import Attached
from bwlab.benchmark import Benchmark
from bwlab.demo.plan import Column, DemoPlan, columns
from bwlab.formats.folders import make_folder
from bwlab.generation.png import write_png
from bwlab.generation.recipe import Recipe, adapter_use
from bwlab.generation.run import load_attached, sampling_bar
from bwlab.generation.sample import generate
from bwlab.generation.samplers import DEFAULT_SAMPLER
from bwlab.generation.sheet import Label, contact_sheet
from bwlab.pipelines import base_scheme, chosen_device, load_base, weights_hash

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image
    from rich.console import Console

    from bwlab.plugins import PluginManager

Painted = list[tuple[Column, list["Image.Image"]]]


def paint_columns(
    plan: DemoPlan,
    prompt: str,
    files: Mapping[str, Path],
    folder: Path,
    manager: PluginManager,
    console: Console,
) -> Painted:
    """Paint every column with the same seeds, write each picture with its recipe below `folder`, and return them.

    Args:
        prompt: of all pictures.
        files: name of a training -> its adapter file.
    """
    pipe = load_base(plan.base).to(chosen_device())
    scheme = base_scheme(pipe, manager)
    adapters = {name: load_attached(path, "1", pipe, manager, scheme) for name, path in files.items()}
    make_folder(folder, f"--out {folder}")
    shown: Painted = []
    with sampling_bar(console, "pictures") as on_step:
        for index, column in enumerate(columns(plan)):
            images = _paint(plan, prompt, pipe, [adapters[name] for name in column.adapters])
            on_step(index + 1, len(columns(plan)))
            shown.append((column, images))
    base_hash = weights_hash(pipe)
    for column, images in shown:
        for seed, image in enumerate(images):
            recipe = _recipe(plan, prompt, seed, image, base_hash, [files[name] for name in column.adapters])
            write_png(folder / f"{column.label.replace(' ', '')}-seed{seed}.png", image, recipe, overwrite=True)
    return shown


def demo_sheet(plan: DemoPlan, prompt: str, painted: Painted, benchmark: Benchmark) -> Image.Image:
    """Return the sheet: a row for each seed, the painted columns, and the true picture that nobody trained on."""
    true = benchmark.picture(plan.identity, plan.style)
    cells = [[images[seed] for _, images in painted] + [true] for seed in range(plan.seeds)]
    heads = [Label(column.label, column.note) for column, _ in painted]
    heads.append(Label("true picture", "never seen in training"))
    footer = f'prompt "{prompt}"; {DEFAULT_SAMPLER}, {plan.sampling_steps} steps, cfg {plan.cfg:g}'
    rows = [Label(f"seed {seed}") for seed in range(plan.seeds)]
    return contact_sheet(cells, heads, rows, title=f"{plan.identity} x {plan.style}", footer=footer)


def _paint(
    plan: DemoPlan, prompt: str, pipe: StableDiffusionPipeline, adapters: Sequence[Attached]
) -> list[Image.Image]:
    prompts, seeds = [prompt] * plan.seeds, range(plan.seeds)
    return generate(pipe, prompts, seeds, adapters, steps=plan.sampling_steps, cfg=plan.cfg)


def _recipe(
    plan: DemoPlan, prompt: str, seed: int, image: Image.Image, base_hash: str, files: Sequence[Path]
) -> Recipe:
    return Recipe(
        prompt=prompt,
        negative="",
        seed=seed,
        steps=plan.sampling_steps,
        cfg=plan.cfg,
        sampler=DEFAULT_SAMPLER,
        base=Path(plan.base).name,
        base_hash=base_hash,
        width=image.width,
        height=image.height,
        version=__version__,
        adapters=tuple(adapter_use(file, "1") for file in files),
    )
