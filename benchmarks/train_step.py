"""Print CPU seconds and memory of one training step beside those of peers, all measured in one run.

    OMP_NUM_THREADS=2 python -m benchmarks.train_step --blocks all --adapter locon --latents 32 --memory

The SD 1.4 UNet needs 8 GB of memory and no download: its weights are random. `flux-cut` is FLUX.1 dev at its full
width with 2 double and 4 single blocks, and needs 11 GB:

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.train_step --model flux-cut --adapter lora --latents 64 \
        --blocks all,late --who bwlab,PEFT
"""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
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
    model: Annotated[str, typer.Option(help="Model: sd14, sd21, sdxl, narrow, tiny, flux-cut or tiny-flux.")] = "sd14",
    adapter: Annotated[str, typer.Option(help="Adapter type, such as locon or lokr.")] = "locon",
    blocks: Annotated[
        str, typer.Option(help="Trained blocks, joined by +: all, out3, in0+out3. Several choices, joined by commas.")
    ] = "all",
    rank: Annotated[int, typer.Option(min=1)] = 16,
    latents: Annotated[int, typer.Option(min=8, help="Height and width of the latents.")] = 32,
    text: Annotated[int | None, typer.Option(min=1, help="Tokens of the text. [default: those of the model]")] = None,
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
        chosen_blocks = [choice.strip() for choice in blocks.split(",")]
        settings = [Setting(model, adapter, choice, rank, latents, precision, batch, text) for choice in chosen_blocks]
        entries = [Entry(kind, setting) for setting in settings for kind in chosen(who, setting, sd_scripts)]
        if seconds:
            measure_seconds(entries, repeats)
        if memory:
            measure_memory(entries)
    except BwlabError as error:
        Console(stderr=True).print(f"Error: {error}", soft_wrap=True)
        raise typer.Exit(2) from None
    console.print(table(entries, replace(settings[0], blocks=" and ".join(chosen_blocks))))


@dataclass
class Entry:
    """A row of the table: a contestant in a setting, and what was measured.

    Attributes:
        kind: the contestant.
        setting: the setting.
        seconds: CPU seconds of each step; empty if they were not measured.
        peak: megabytes above the base; None if they were not measured.

    """

    kind: type[Contestant]
    setting: Setting
    seconds: list[float] = field(default_factory=list)
    peak: float | None = None

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


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


def measure_seconds(entries: Sequence[Entry], repeats: int) -> None:
    """Measure the CPU seconds of each step, all taken in turns on one denoiser."""
    denoiser = entries[0].setting.new_denoiser()
    taken = cpu_seconds([entry.kind(denoiser, entry.setting) for entry in entries], repeats)
    for entry, seconds in zip(entries, taken, strict=True):
        entry.seconds = seconds


def measure_memory(entries: Sequence[Entry]) -> None:
    """Measure the megabytes above the base, each in a new process, which on Linux is forked from one for all."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(["benchmarks.train_step"])  # without effect where processes are spawned
    for entry in track(entries, "measuring memory"):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            folder = getattr(entry.kind, "folder", None)
            entry.peak = pool.submit(alone, entry.kind, entry.setting, folder).result()


def alone(kind: type[Contestant], setting: Setting, folder: Path | None) -> float:
    """Return the megabytes of one contestant; it has to run in a process of its own."""
    quiet()
    if folder is not None:
        KohyaClone.folder = folder
    return peak_memory(lambda: kind(setting.new_denoiser(), setting))


def table(entries: Sequence[Entry], setting: Setting) -> Table:
    """Return the numbers, with the ratio of each entry's seconds to those of PEFT, or else of the first contestant.

    Where several choices of blocks are measured, one ratio is to the same blocks and one to the first choice.
    """
    shown = Table(title=setting.title, caption=f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    shown.add_column("", no_wrap=True)
    several = len({entry.setting for entry in entries}) > 1
    against = next((entry.kind for entry in entries if entry.kind.name == "PEFT"), entries[0].kind)
    whole = {entry.setting: entry.median for entry in entries if entry.kind is against and entry.seconds}
    if several:
        shown.add_column("blocks")
    if whole:
        first = [f"of {against.name}, {entries[0].setting.blocks}"] if several else []
        for heading in ("CPU s, median", "least", "greatest", f"of {against.name}", *first):
            shown.add_column(heading, justify="right")
    if any(entry.peak is not None for entry in entries):
        shown.add_column("peak - base, MB", justify="right")
    for entry in entries:
        cells = [entry.kind.name, *([entry.setting.blocks] if several else [])]
        if whole:
            cells += [f"{seconds:.2f}" for seconds in (entry.median, min(entry.seconds), max(entry.seconds))]
            references = [entry.setting, *([entries[0].setting] if several else [])]
            cells += [f"x{entry.median / whole[own]:.2f}" if own in whole else "" for own in references]
        if entry.peak is not None:
            cells.append(f"{entry.peak:.0f}")
        shown.add_row(*cells)
    return shown


def quiet() -> None:
    """Silence the messages of the peers' packages when they are set up."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    typer.run(main)
