"""`bwlab demo`: adapters of an identity and a style, alone and together, on one sheet."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab._version import __version__
from bwlab.adapters.attach import ScaledAdapter
from bwlab.base.device import chosen_device
from bwlab.base.load import base_scheme, load_base, scheme_before_loading, weights_hash
from bwlab.benchmark import Benchmark, load_benchmark
from bwlab.dataset.config import DataConfig
from bwlab.errors import BwlabError
from bwlab.files import make_folder, write_atomically
from bwlab.generation.attach import load_for_pipeline
from bwlab.generation.contact_sheet import Label, contact_sheet
from bwlab.generation.recipe import GenerationRecipe, RecipeAdapter, recipe_adapter, write_png
from bwlab.generation.sample import generate
from bwlab.generation.samplers import sampler_for
from bwlab.terminal import ProgressBar, warn
from bwlab.training import train
from bwlab.training.config import AdapterConfig, CheckpointConfig, OptimizerConfig, PreviewConfig, TrainConfig
from bwlab.training.run_folder import ExistingRun
from bwlab_analysis.activations.batched_denoiser import REST, TEXT
from bwlab_analysis.fidelity.moves import usual_specs
from bwlab_analysis.installed import conflict_measures
from bwlab_analysis.report.conflict import present_conflict
from bwlab_analysis.report.documents import conflict_document
from bwlab_analysis.report.show import print_presentation
from bwlab_analysis.weights.conflict import measure_conflict

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

    from bwlab.plugins.manager import PluginManager

MARK = ".bwlab-demo"
IDENTITY, STYLE_FULL = "identity", "style-full"


@dataclass(frozen=True)
class DemoPlan:
    """All settings of the demo.

    Attributes:
        base: base model, as `bwlab train` takes it.
        identity: a held-out identity of the benchmark, learned from its images in the styles that the base knows.
        style: a held-out style, learned from other identities, which the base knows.
        identity_blocks, style_blocks: ranks of the first two adapters.
        part: the part of the denoiser that the third adapter, of the style too, is trained into.
        part_rank: its rank.
        scales: block specs for identity and style that helped other pairs; empty where none are known.
        identity_steps, style_steps: training steps.
        batch_size, lr: batch size and learning rate of all three trainings.
        cfg, sampling_steps: guidance scale and sampling steps.
        seeds: number of images in each column of the sheet, from seed 0 on.
        seed: seed of the first training. The others count up, since adapters that start from one seed share directions
            that have nothing to do with what they learned.

    """

    base: str = "emoji"
    identity: str = "fox"
    style: str = "ink"
    identity_blocks: str = "all=16"
    style_blocks: str = "all=16"
    part: str = "upper"
    part_rank: int = 16
    scales: tuple[str, ...] = field(default_factory=usual_specs)
    identity_steps: int = 100
    style_steps: int = 150
    batch_size: int = 8
    lr: float = 1e-3
    cfg: float = 3.0
    sampling_steps: int = 25
    seeds: int = 4
    seed: int = 0

    @property
    def part_blocks(self) -> str:
        """The rank of the third adapter, as a block spec."""
        return f"{self.part}={self.part_rank}"

    @property
    def style_part(self) -> str:
        """The name of the third adapter."""
        return f"style-{self.part}"


STYLE_PARTS = ("late", "style")
"""Parts for the style where a model has no upper blocks: a transformer's last third, and B-LoRA's part of SDXL."""
FULL = DemoPlan()
QUICK = replace(FULL, identity_steps=50, style_steps=60, seeds=2)


def plan_for(base: str, manager: PluginManager, *, quick: bool = False) -> DemoPlan:
    """Return the demo's plan for a base model: the third adapter's part is the first of `STYLE_PARTS` that it has.

    A model with none of them, such as a UNet of a plugin's scheme, has it in its last block.
    """
    plan = replace(QUICK if quick else FULL, base=base)
    scheme = scheme_before_loading(base, manager.block_schemes())
    if scheme is None or plan.part in dict(scheme.parts):
        return plan
    blocks = [block for block in scheme.blocks() if block not in (TEXT, REST)]
    part = next((part for part in STYLE_PARTS if part in dict(scheme.parts)), blocks[-1])
    return replace(plan, part=part, scales=())


@dataclass(frozen=True)
class DemoTraining:
    """One of the demo's trainings.

    Attributes:
        name: name of the adapter and of its folder.
        blocks: ranks of its blocks.
        steps: training steps.
        data: name of the data folder.
        seed: seed of the training.

    """

    name: str
    blocks: str
    steps: int
    data: str
    seed: int


@dataclass(frozen=True)
class SheetColumn:
    """A column of the sheet: adapters that act together.

    Attributes:
        label, note: its title and the line below the title.
        adapters: names of the adapters.
        scales: scale or block spec of each adapter; empty: 1.

    """

    label: str
    note: str
    adapters: tuple[str, ...]
    scales: tuple[str, ...] = ()

    def scaled(self) -> list[tuple[str, str]]:
        """Return each adapter with its scale."""
        return list(zip(self.adapters, self.scales or ["1"] * len(self.adapters), strict=True))


@dataclass(frozen=True, eq=False)
class Generated:
    """The generated images.

    Attributes:
        sampler: name of the sampler, the usual one of the base.
        columns: each column with its images, one for each seed.

    """

    sampler: str
    columns: list[tuple[SheetColumn, list[Image.Image]]]


@dataclass(frozen=True)
class DemoResult:
    """The files that the demo wrote.

    Attributes:
        sheet: the contact sheet.
        adapters: name -> adapter file.
        conflicts: JSON files of the compared pairs.
        images: folder of the single images with their recipes.
        seconds: wall time.

    """

    sheet: Path
    adapters: Mapping[str, Path]
    conflicts: tuple[Path, ...]
    images: Path
    seconds: float


def run_demo(
    plan: DemoPlan, out: Path, manager: PluginManager, console: Console, *, overwrite: bool = False
) -> DemoResult:
    """Train the adapters, compare their weights, and generate the sheet; a demo that was stopped continues.

    Raises:
        BwlabError: `out` holds something else, or a step failed.

    """
    began = time.perf_counter()
    prepare_folder(out, overwrite)
    benchmark = load_benchmark()
    write_data(plan, benchmark, out / "data")
    files = {training.name: _train(plan, training, out, manager, console) for training in trainings(plan)}
    console.print("Comparing the weights of the adapters", style="bold")
    styles = files[STYLE_FULL], files[plan.style_part]
    conflicts = tuple(compare(files[IDENTITY], style, out, manager, console) for style in styles)
    console.print("Generating images of every combination with one prompt and the same seeds", style="bold")
    prompt = benchmark.caption(plan.identity, plan.style)
    generated = generate_columns(plan, prompt, files, out / "images", manager, console)
    sheet = write_png(out / "sheet.png", demo_sheet(plan, prompt, generated, benchmark), overwrite=True)
    return DemoResult(sheet, files, conflicts, out / "images", time.perf_counter() - began)


def trainings(plan: DemoPlan) -> tuple[DemoTraining, ...]:
    """Return the trainings in order."""
    return (
        DemoTraining(IDENTITY, plan.identity_blocks, plan.identity_steps, "identity", plan.seed),
        DemoTraining(STYLE_FULL, plan.style_blocks, plan.style_steps, "style", plan.seed + 1),
        DemoTraining(plan.style_part, plan.part_blocks, plan.style_steps, "style", plan.seed + 2),
    )


def columns(plan: DemoPlan) -> tuple[SheetColumn, ...]:
    """Return the generated columns of the sheet; the true image follows them."""
    identity, style, part = plan.identity_blocks, plan.style_blocks, plan.part_blocks
    shown = [
        SheetColumn("base alone", f"knows neither {plan.identity} nor {plan.style}", ()),
        SheetColumn("identity alone", identity, (IDENTITY,)),
        SheetColumn("style alone", style, (STYLE_FULL,)),
        SheetColumn("full + full", f"identity {identity}, style {style}", (IDENTITY, STYLE_FULL)),
        SheetColumn(f"full + {plan.part}", f"identity {identity}, style {part}", (IDENTITY, plan.style_part)),
    ]
    if plan.scales:
        scaled = "identity scaled {}; style scaled {}".format(*plan.scales)
        shown.append(SheetColumn("full + full, scaled", scaled, (IDENTITY, STYLE_FULL), plan.scales))
    return tuple(shown)


def prepare_folder(out: Path, overwrite: bool) -> None:
    """Make `out`, or keep it if a demo wrote it; `BwlabError` if it holds anything else."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise BwlabError(
            f"--out {out}", "the folder is not empty and was not written by a demo", "Choose another folder"
        )
    try:
        if overwrite and out.is_dir():
            shutil.rmtree(out)
    except OSError as error:
        raise BwlabError(f"--out {out}", error.strerror or str(error), "Choose another folder") from error
    make_folder(out, f"--out {out}")
    write_atomically(out / MARK, b"Written by 'bwlab demo'; the folder may be removed as a whole.\n")


def write_data(plan: DemoPlan, benchmark: Benchmark, folder: Path) -> None:
    """Write both data folders: the identity in known styles, and the style on other identities."""
    benchmark.write_dataset(folder / "identity", benchmark.identity_pairs(plan.identity))
    benchmark.write_dataset(folder / "style", benchmark.style_pairs(plan.style))


def _train(plan: DemoPlan, training: DemoTraining, out: Path, manager: PluginManager, console: Console) -> Path:
    console.print(f"Training {training.name}: LoCon, {training.blocks}, {training.steps} steps", style="bold")
    config = train_config(plan, training, out)
    started = (Path(config.out) / "config.toml").is_file()
    return train(config, manager, console, ExistingRun.RESUME if started else ExistingRun.REFUSE)


def train_config(plan: DemoPlan, training: DemoTraining, out: Path) -> TrainConfig:
    """Return the settings of one training; `bwlab train` on its config.toml repeats it."""
    return TrainConfig(
        base=plan.base,
        out=str(out / training.name),
        adapter=AdapterConfig(type="locon", blocks=training.blocks),
        data=DataConfig(folder=str(out / "data" / training.data)),
        training=OptimizerConfig(steps=training.steps, batch_size=plan.batch_size, lr=plan.lr, seed=training.seed),
        preview=PreviewConfig(enabled=False),
        checkpoint=CheckpointConfig(every=100, keep=1),
    )


def compare(a: Path, b: Path, out: Path, manager: PluginManager, console: Console) -> Path:
    """Print how the weights of two adapters conflict, and return the file with the same numbers as JSON."""
    measures = [measure for measure in conflict_measures(manager, warn) if not measure.slow]
    report = measure_conflict(a, b, measures, manager)
    print_presentation(console, present_conflict(report, None))
    path = out / f"conflict-{a.parent.name}-{b.parent.name}.json"
    write_atomically(path, (json.dumps(conflict_document(report), indent=2, allow_nan=False) + "\n").encode())
    return path


def generate_columns(
    plan: DemoPlan,
    prompt: str,
    files: Mapping[str, Path],
    folder: Path,
    manager: PluginManager,
    console: Console,
) -> Generated:
    """Generate every column with the same seeds, write each image with its recipe, and return the images.

    Args:
        plan: the settings.
        prompt: prompt of all images.
        files: name of an adapter -> its file.
        folder: where the images are written.
        manager: the plugins.
        console: where the progress is shown.

    """
    pipe = load_base(plan.base, families=manager.model_families()).to(chosen_device())
    scheme = base_scheme(pipe, manager.block_schemes())
    adapters = {name: load_for_pipeline(path, pipe, manager, scheme) for name, path in files.items()}
    prompts, seeds = [prompt] * plan.seeds, range(plan.seeds)
    make_folder(folder, f"--out {folder}")
    base_hash, sampler = weights_hash(pipe), sampler_for(pipe, "auto").name
    generated: list[tuple[SheetColumn, list[Image.Image]]] = []
    with ProgressBar("sampling images", len(columns(plan)), console=console) as bar:
        for column in columns(plan):
            uses = [ScaledAdapter(adapters[name], scale) for name, scale in column.scaled()]
            images = generate(pipe, prompts, seeds, uses, steps=plan.sampling_steps, cfg=plan.cfg)
            generated.append((column, images))
            bar.advance()
    for column, images in generated:
        for seed, image in enumerate(images):
            used = tuple(recipe_adapter(files[name], scale) for name, scale in column.scaled())
            recipe = _recipe(plan, prompt, seed, image, base_hash, sampler, used)
            name = column.label.replace(" ", "").replace(",", "-")
            write_png(folder / f"{name}-seed{seed}.png", image, recipe, overwrite=True)
    return Generated(sampler, generated)


def _recipe(
    plan: DemoPlan,
    prompt: str,
    seed: int,
    image: Image.Image,
    base_hash: str,
    sampler: str,
    used: tuple[RecipeAdapter, ...],
) -> GenerationRecipe:
    return GenerationRecipe(
        prompt=prompt,
        negative="",
        seed=seed,
        steps=plan.sampling_steps,
        cfg=plan.cfg,
        sampler=sampler,
        base=Path(plan.base).name,
        base_hash=base_hash,
        width=image.width,
        height=image.height,
        version=__version__,
        adapters=used,
    )


def demo_sheet(plan: DemoPlan, prompt: str, generated: Generated, benchmark: Benchmark) -> Image.Image:
    """Return the sheet: a row for each seed, the generated columns, and the true image."""
    true = benchmark.image(plan.identity, plan.style)
    cells = [[images[seed] for _, images in generated.columns] + [true] for seed in range(plan.seeds)]
    heads = [Label(column.label, column.note) for column, _ in generated.columns]
    heads.append(Label("true image", "in no training set"))
    footer = f'prompt "{prompt}"; {generated.sampler}, {plan.sampling_steps} steps, cfg {plan.cfg:g}'
    rows = [Label(f"seed {seed}") for seed in range(plan.seeds)]
    return contact_sheet(cells, heads, rows, title=f"{plan.identity} x {plan.style}", footer=footer)
