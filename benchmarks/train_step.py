"""Print CPU seconds and memory of one training step beside those of peers, all measured in one run.

    OMP_NUM_THREADS=2 python -m benchmarks.train_step --blocks all --adapter locon --latents 32 --memory

The SD 1.4 UNet needs 8 GB of memory and no download: its weights are random.
"""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import cpu_seconds, peak_memory
from benchmarks.peers import CONTESTANTS, Contestant, KohyaClone, by_name
from benchmarks.setting import Setting
from bwlab.errors import BwlabError
from bwlab.terminal import track


def main(
    model: Annotated[str, typer.Option(help="Model: sd14, sd21, sdxl, narrow or tiny.")] = "sd14",
    adapter: Annotated[str, typer.Option(help="Adapter type, such as locon or lokr.")] = "locon",
    blocks: Annotated[str, typer.Option(help="Trained blocks, joined by +: all, out3, in0+out3.")] = "all",
    rank: Annotated[int, typer.Option(min=1)] = 16,
    latents: Annotated[int, typer.Option(min=8, help="Height and width of the latents.")] = 32,
    precision: Annotated[str, typer.Option(help="Precision: fp32, or bf16 (base in bfloat16, autocast).")] = "fp32",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Number of timed steps of each contestant.")] = 5,
    who: Annotated[str, typer.Option(help="Contestants, joined by commas. [default: all that are installed]")] = "",
    sd_scripts: Annotated[Path | None, typer.Option(help="Clone of kohya-ss/sd-scripts to measure too.")] = None,
    seconds: Annotated[bool, typer.Option(help="Measure CPU seconds.")] = True,
    memory: Annotated[bool, typer.Option(help="Measure memory, each contestant in a process of its own.")] = False,
) -> None:
    """Measure training steps."""
    quiet()
    console = Console()
    try:
        setting = Setting(model, adapter, blocks, rank, latents, precision, batch)
        kinds = chosen(who, setting, sd_scripts)
        taken = timed(kinds, setting, repeats) if seconds else {}
        peaks = peaks_of(kinds, setting) if memory else {}
    except BwlabError as error:
        Console(stderr=True).print(f"Error: {error}", soft_wrap=True)
        raise typer.Exit(2) from None
    console.print(table([kind.name for kind in kinds], setting, taken, peaks))


def chosen(who: str, setting: Setting, sd_scripts: Path | None) -> list[type[Contestant]]:
    """Return the contestants that make sense for the setting; BwlabError for one that is unknown or does not."""
    if sd_scripts is not None:
        KohyaClone.folder = sd_scripts
    if who:
        named = [by_name(name.strip()) for name in who.split(",")]
        lacking = [kind.name for kind in named if not kind.trains(setting)]
        if lacking:
            found = f"{' and '.join(lacking)} have LoRA and LoCon alone"
            raise BwlabError(f"--who {who!r} --adapter {setting.adapter}", found, "Leave them out")
        return named
    return [kind for kind in CONTESTANTS if kind.available(setting)]


def timed(kinds: Sequence[type[Contestant]], setting: Setting, repeats: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each step by name, taken in turns on one UNet."""
    unet = setting.new_unet()
    return cpu_seconds([kind(unet, setting) for kind in kinds], repeats)


def peaks_of(kinds: Sequence[type[Contestant]], setting: Setting) -> dict[str, float]:
    """Return the megabytes above the base by name, each measured in a new process."""
    peaks: dict[str, float] = {}
    context = multiprocessing.get_context("spawn")
    for kind in track(kinds, "measuring memory"):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            peaks[kind.name] = pool.submit(alone, kind, setting, getattr(kind, "folder", None)).result()
    return peaks


def alone(kind: type[Contestant], setting: Setting, folder: Path | None) -> float:
    """Return the megabytes of one contestant; it has to run in a process of its own."""
    quiet()
    if folder is not None:
        KohyaClone.folder = folder
    return peak_memory(lambda: kind(setting.new_unet(), setting))


def table(
    names: Sequence[str], setting: Setting, taken: Mapping[str, Sequence[float]], peaks: Mapping[str, float]
) -> Table:
    """Return the numbers, with the ratio of each contestant's seconds to PEFT's, or else to the first one's."""
    shown = Table(title=setting.title, caption=f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    shown.add_column("", no_wrap=True)
    first = next(iter(taken), "")
    against = "PEFT" if "PEFT" in taken else first
    if taken:
        for heading in ("CPU s, median", "least", "greatest", f"of {against}"):
            shown.add_column(heading, justify="right")
    if peaks:
        shown.add_column("peak - base, MB", justify="right")
    for name in names:
        cells: list[str] = []
        if taken:
            own, whole = taken[name], statistics.median(taken[against])
            middle = statistics.median(own)
            cells += [f"{middle:.2f}", f"{min(own):.2f}", f"{max(own):.2f}", f"x{middle / whole:.2f}"]
        if peaks:
            cells.append(f"{peaks[name]:.0f}")
        shown.add_row(name, *cells)
    return shown


def quiet() -> None:
    """Silence the messages of the peers' packages when they are set up."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    typer.run(main)
