"""`bwlab demo`: the whole idea on one sheet."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab._version import __version__
from bwlab.adapters.attach import ScaledAdapter
from bwlab.base.device import chosen_device
from bwlab.base.load import base_scheme, load_base, weights_hash
from bwlab.benchmark import Benchmark, load_benchmark
from bwlab.dataset.config import DataConfig
from bwlab.errors import BwlabError
from bwlab.files import make_folder, write_atomically
from bwlab.generation.attach import load_for_pipeline
from bwlab.generation.contact_sheet import Label, contact_sheet
from bwlab.generation.recipe import GenerationRecipe, recipe_adapter, write_png
from bwlab.generation.sample import generate
from bwlab.generation.samplers import DEFAULT_SAMPLER
from bwlab.terminal import sampling_bar
from bwlab.training import train
from bwlab.training.config import AdapterConfig, CheckpointConfig, OptimizerConfig, PreviewConfig, TrainConfig
from bwlab.training.run_folder import Existing

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image
    from rich.console import Console

    from bwlab.plugins.manager import PluginManager


MARK = ".bwlab-demo"

IDENTITY, STYLE_FULL, STYLE_UPPER = "identity", "style-full", "style-upper"

PAIRS = ((IDENTITY, STYLE_FULL), (IDENTITY, STYLE_UPPER))


@dataclass(frozen=True)
class Column:
    """One column of the sheet: which adapters act together, each at scale 1."""

    label: str
    note: str
    adapters: tuple[str, ...]


Painted = list[tuple[Column, list["Image.Image"]]]


@dataclass(frozen=True)
class DemoPlan:
    """All settings of the demo.

    Attributes:
        base: `"emoji"` or the folder of a diffusers pipeline.
        identity: a held-out identity of the benchmark, learned from its pictures in the styles that the base knows.
        style: a held-out style, learned from other identities, which the base knows.
        identity_blocks, style_blocks, upper_blocks: ranks of the three adapters.
        identity_steps, style_steps: optimiser steps.
        lr: learning rate of all three.
        cfg: guidance of the pictures.
        sampling_steps: of DPM++ 2M Karras.
        seeds: pictures in each column of the sheet: seeds 0, 1, ...
        seed: of the first training; the others count up, since adapters that start from one seed share directions
            that have nothing to do with what they learned.

    """

    base: str = "emoji"
    identity: str = "fox"
    style: str = "ink"
    identity_blocks: str = "all=16"
    style_blocks: str = "all=16"
    upper_blocks: str = "upper=16"
    identity_steps: int = 100
    style_steps: int = 150
    batch_size: int = 8
    lr: float = 1e-3
    cfg: float = 3.0
    sampling_steps: int = 25
    seeds: int = 4
    seed: int = 0


FULL = DemoPlan()
QUICK = replace(FULL, identity_steps=50, style_steps=60, seeds=2)


@dataclass(frozen=True)
class DemoResult:
    """Where everything lies.

    Attributes:
        sheet: the contact sheet.
        adapters: name -> adapter file.
        conflicts: JSON files of the pairs; empty where the analysis is not installed.
        pictures: folder of the single pictures with their recipes.
        seconds: wall time.

    """

    sheet: Path
    adapters: Mapping[str, Path]
    conflicts: tuple[Path, ...]
    pictures: Path
    seconds: float


def run_demo(
    plan: DemoPlan, out: Path, manager: PluginManager, console: Console, *, overwrite: bool = False
) -> DemoResult:
    """Train, compose, compare; a demo that was stopped goes on where it was.

    Raises:
        BwlabError: `out` holds something else, or a step failed.

    """
    began = time.perf_counter()
    prepare_folder(out, overwrite)
    benchmark = load_benchmark()
    write_data(plan, benchmark, out / "data")
    files = {training.name: _train(plan, training, out, manager, console) for training in trainings(plan)}
    console.print("[bold]Where the adapters meet[/bold]")
    conflicts = tuple(path for a, b in PAIRS for path in show_conflict(files[a], files[b], out, console))
    console.print("[bold]Painting[/bold] every combination with the same prompt and seeds")
    prompt = benchmark.caption(plan.identity, plan.style)
    painted = paint_columns(plan, prompt, files, out / "pictures", manager, console)
    sheet = write_png(out / "sheet.png", demo_sheet(plan, prompt, painted, benchmark), overwrite=True)
    return DemoResult(sheet, files, conflicts, out / "pictures", time.perf_counter() - began)


def prepare_folder(out: Path, overwrite: bool) -> None:
    """Make `out`, or take it up again if a demo wrote it; `BwlabError` if it holds anything else."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise BwlabError(f"--out {out}", "the folder is not empty and not a demo's", "Choose another folder")
    try:
        if overwrite and out.is_dir():
            shutil.rmtree(out)
    except OSError as error:
        raise BwlabError(f"--out {out}", error.strerror or str(error), "Choose another folder") from error
    make_folder(out, f"--out {out}")
    write_atomically(out / MARK, b"Written by 'bwlab demo'; the folder may be removed as a whole.\n")


def write_data(plan: DemoPlan, benchmark: Benchmark, folder: Path) -> None:
    """Write both data folders: the identity in known styles, the style on other identities."""
    benchmark.write_dataset(folder / "identity", benchmark.identity_pairs(plan.identity))
    benchmark.write_dataset(folder / "style", benchmark.style_pairs(plan.style))


def train_config(plan: DemoPlan, training: Training, out: Path) -> TrainConfig:
    """Return the settings of one training; its run can be repeated with `bwlab train` on its config.toml."""
    return TrainConfig(
        base=plan.base,
        out=str(out / training.name),
        adapter=AdapterConfig(type="locon", blocks=training.blocks),
        data=DataConfig(folder=str(out / "data" / training.data)),
        training=OptimizerConfig(steps=training.steps, batch_size=plan.batch_size, lr=plan.lr, seed=training.seed),
        preview=PreviewConfig(enabled=False),
        checkpoint=CheckpointConfig(every=100, keep=1),
    )


def _train(plan: DemoPlan, training: Training, out: Path, manager: PluginManager, console: Console) -> Path:
    console.print(f"[bold]Training[/bold] {training.name}: LoCon, {training.blocks}, {training.steps} steps")
    config = train_config(plan, training, out)
    started = (Path(config.out) / "config.toml").is_file()
    return train(config, manager, console, Existing.RESUME if started else Existing.REFUSE)


def show_conflict(a: Path, b: Path, out: Path, console: Console) -> tuple[Path, ...]:
    """Print the conflict table of two adapters and return the file with its JSON; nothing without the analysis.

    The analysis package stands above this one, so it is reached as a user reaches it: through its command.
    """
    command = [sys.executable, "-m", "bwlab", "analyze", "conflict", str(a), str(b)]
    table = subprocess.run(command, capture_output=True, text=True, check=False)
    if table.returncode != 0:
        reason = (table.stderr.strip().splitlines() or ["no message"])[-1]
        console.print(f"no conflict table: {reason}", style="yellow", markup=False, soft_wrap=True)
        return ()
    console.print(table.stdout, markup=False, highlight=False, soft_wrap=True)
    document = subprocess.run([*command, "--json"], capture_output=True, check=True)
    path = out / f"conflict-{a.parent.name}-{b.parent.name}.json"
    write_atomically(path, document.stdout)
    return (path,)


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
    scheme = base_scheme(pipe, manager.block_schemes())
    adapters = {name: ScaledAdapter(load_for_pipeline(path, pipe, manager, scheme)) for name, path in files.items()}
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
    plan: DemoPlan, prompt: str, pipe: StableDiffusionPipeline, adapters: Sequence[ScaledAdapter]
) -> list[Image.Image]:
    prompts, seeds = [prompt] * plan.seeds, range(plan.seeds)
    return generate(pipe, prompts, seeds, adapters, steps=plan.sampling_steps, cfg=plan.cfg)


def _recipe(
    plan: DemoPlan, prompt: str, seed: int, image: Image.Image, base_hash: str, files: Sequence[Path]
) -> GenerationRecipe:
    return GenerationRecipe(
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
        adapters=tuple(recipe_adapter(file, "1") for file in files),
    )


@dataclass(frozen=True)
class Training:
    """One of the demo's adapters.

    Attributes:
        name: of its folder.
        blocks: ranks.
        steps: optimiser steps.
        data: name of the data folder.
        seed: of its start, batches and noise.

    """

    name: str
    blocks: str
    steps: int
    data: str
    seed: int


def trainings(plan: DemoPlan) -> tuple[Training, ...]:
    """Return the adapters to train, in order."""
    return (
        Training(IDENTITY, plan.identity_blocks, plan.identity_steps, "identity", plan.seed),
        Training(STYLE_FULL, plan.style_blocks, plan.style_steps, "style", plan.seed + 1),
        Training(STYLE_UPPER, plan.upper_blocks, plan.style_steps, "style", plan.seed + 2),
    )


def columns(plan: DemoPlan) -> tuple[Column, ...]:
    """Return the painted columns of the sheet; the true picture follows them."""
    return (
        Column("base alone", f"knows neither {plan.identity} nor {plan.style}", ()),
        Column("identity alone", plan.identity_blocks, (IDENTITY,)),
        Column("style alone", plan.style_blocks, (STYLE_FULL,)),
        Column("full + full", f"identity {plan.identity_blocks}, style {plan.style_blocks}", (IDENTITY, STYLE_FULL)),
        Column("full + upper", f"identity {plan.identity_blocks}, style {plan.upper_blocks}", (IDENTITY, STYLE_UPPER)),
    )
