"""Runs the demo from the benchmark's pictures to the sheet."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.benchmark import Benchmark, load_benchmark
from bwlab.demo.pictures import demo_sheet, paint_columns
from bwlab.demo.plan import IDENTITY, STYLE_FULL, STYLE_UPPER, DemoPlan, Training, trainings
from bwlab.errors import BwlabError
from bwlab.formats.atomic import write_atomically
from bwlab.formats.folders import make_folder
from bwlab.generation.png import write_png
from bwlab.training import Existing, TrainConfig, train
from bwlab.training.config import AdapterConfig, CheckpointConfig, OptimizerConfig, PreviewConfig
from bwlab.training.data_config import DataConfig

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab.plugins import PluginManager

MARK = ".bwlab-demo"
PAIRS = ((IDENTITY, STYLE_FULL), (IDENTITY, STYLE_UPPER))


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
