"""Compare what `bwlab train --plan-memory` predicts with what training steps take: `python -m benchmarks.memory_plan`.

Each case trains two steps in a process of its own, after a first one that makes the optimiser's state; the highest
resident memory of both, above that before them, stands beside the predicted peak above what is held. The transformers
have random weights and so many tokens that activations are most of their memory. Linux only.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.measure import give_large_tensors_pages, highest_memory
from benchmarks.train_step import quiet
from bwlab.base.names import EMBEDDED
from bwlab.plugins.manager import build_manager
from bwlab.terminal import track
from bwlab.training.config import TrainConfig
from bwlab.training.memory.plan import memory_plan
from bwlab.training.prepare import prepare
from bwlab.training.run import Run
from bwlab.training.run_folder import folder_of
from bwlab.training.settings import read_config

# Name -> base, and the settings of the run.
CASES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "embedded UNet": (EMBEDDED, ("adapter.blocks=all=8", "training.batch_size=16")),
    "embedded UNet, checkpointing": (
        EMBEDDED,
        ("adapter.blocks=all=8", "training.batch_size=16", "training.gradient_checkpointing=true"),
    ),
    "SD 3, all blocks": ("sd3", ("adapter.blocks=all=8",)),
    "SD 3, all blocks, bf16": ("sd3", ("adapter.blocks=all=8", "training.precision=bf16")),
    "SD 3, all blocks, checkpointing": ("sd3", ("adapter.blocks=all=8", "training.gradient_checkpointing=true")),
    "FLUX.1, all blocks": ("flux", ("adapter.blocks=all=8",)),
    "FLUX.1, late blocks": ("flux", ("adapter.blocks=late=8",)),
    "FLUX.1, all blocks, checkpointing": ("flux", ("adapter.blocks=all=8", "training.gradient_checkpointing=true")),
    "FLUX.1, all blocks, nf4": ("flux", ("adapter.blocks=all=8", "training.quantize=nf4")),
}
SIDE = 256  # pixels, of which the small autoencoders make 64 x 64 latents: 1024 tokens
MIB = 2**20


def save_base(kind: str, folder: Path) -> None:
    """Write a random pipeline of the tests with a transformer of 12 heads of width 32 and 6 blocks."""
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    from tests.families.pipelines import tiny_flux, tiny_sd3

    pipe: Any = tiny_sd3() if kind == "sd3" else tiny_flux(guidance=False)
    settings = {key: value for key, value in pipe.transformer.config.items() if not key.startswith("_")}
    settings |= {"num_attention_heads": 12, "attention_head_dim": 32}
    if kind == "sd3":
        settings |= {"num_layers": 6, "caption_projection_dim": 384, "sample_size": 64, "pos_embed_max_size": 64}
        pipe.transformer = SD3Transformer2DModel(**settings)
    else:
        settings |= {"num_layers": 2, "num_single_layers": 4, "axes_dims_rope": (8, 12, 12)}
        pipe.transformer = FluxTransformer2DModel(**settings)
    pipe.save_pretrained(folder)


def config_of(case: str, work: Path) -> TrainConfig:
    """Return the settings of a case, whose base and images are made if they are not there."""
    base, settings = CASES[case]
    folder, images = work / base, work / "images"
    if base != EMBEDDED and not folder.is_dir():
        save_base(base, folder)
    if not images.is_dir():
        images.mkdir()
        for index in range(16):
            Image.new("RGB", (SIDE, SIDE), (16 * index, 30, 200)).save(images / f"{index}.png")
            (images / f"{index}.txt").write_text("a red square")
    size = () if base == EMBEDDED else (f"data.resolution={SIDE}", "training.batch_size=2")
    common = (f"data.folder={images}", f"out={work / 'run'}", f"data.cache={work / 'cache'}", "adapter.type=lora")
    shown = ("preview.enabled=false", "training.device=cpu", "training.precision=fp32")
    return read_config(sets=[f"base={folder if base != EMBEDDED else base}", *common, *shown, *size, *settings])


def measured(case: str, work: Path) -> float:
    """Return the highest memory of two steps above that before them, in bytes; in a process of its own."""
    quiet()
    give_large_tensors_pages()
    config, manager, console = config_of(case, work), build_manager(), Console(quiet=True)
    setup = prepare(config, manager, console)
    run = Run(config, folder_of(config), setup, manager, console)
    record = run.record()
    with setup.trainable.attached(setup.pipe), setup.graph(config.training):
        return highest_memory(lambda: run.trainer.train_step(record)) * 1e6


def predicted(case: str, work: Path) -> tuple[float, float]:
    """Return the predicted peak of a step above what is held, and what it keeps for the backward pass, in bytes."""
    quiet()
    config = config_of(case, work)
    plan = memory_plan(config, build_manager())
    step = plan.step[config.training.gradient_checkpointing]
    return plan.peak_of_step(config.training.quantize, config.training.gradient_checkpointing), step.kept


def main(cases: Annotated[str, typer.Option(help="Text in the names of the cases to measure.")] = "") -> None:
    """Print predictions beside measurements."""
    table = Table(title="Peak of a training step above what is held", caption=f"torch {torch.__version__}, CPU")
    for heading in ("", "kept, MiB", "predicted, MiB", "measured, MiB", "predicted / measured"):
        table.add_column(heading, justify="right" if heading else "left")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for case in track([case for case in CASES if cases in case], "measuring"):
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                peak, kept = pool.submit(predicted, case, Path(folder)).result()
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found = pool.submit(measured, case, Path(folder)).result()
            numbers = (kept / MIB, peak / MIB, found / MIB)
            table.add_row(case, *(f"{number:.0f}" for number in numbers), f"{peak / found:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
