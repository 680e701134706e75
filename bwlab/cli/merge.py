"""`bwlab merge`: merge several adapters into one, or fold them into a base model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError
from bwlab.terminal import counted, echo

if TYPE_CHECKING:
    from rich.table import Table

    from bwlab.merging.output import FitRow, Outcome, Target
    from bwlab.merging.ziplora import ZipLoraSettings


SCALE_HELP = (
    'Scale of an adapter: a number, or a block spec such as "upper=1, *=0.5" in which unnamed blocks keep 1. '
    "Give one for each adapter, in their order. [default: 1]"
)
FORM_HELP = "Form of the file: kohya, ldm, comfyui, diffusers, peft, or a plugin's."
DTYPE_HELP = "Data type of the numbers: fp32, fp16 or bf16."
DROP_UNKNOWN_HELP = "Leave out keys that no reader understands, instead of failing."
METHOD_HELP = (
    "Merge method: sum, blocks (a sum of the adapters that --choose names), ties, dare or ziplora; see docs/merging.md."
)
CHOOSE_HELP = 'Adapters that make up each block, such as "upper=B, mid=A+B, *=A"; A is the first.'
KOHYA = "kohya"
ZIPLORA_PANEL = "Options of --method ziplora"
INTO_HELP = "Fold the adapters into this base model; OUT is a folder, or a single .safetensors file."
INTO_IS_EXACT = "a base model is written, which holds every delta exactly"


def command(
    adapters: Annotated[list[Path], typer.Argument(help="Adapter files, called A, B, ... in --choose.")],
    out: Annotated[Path, typer.Option(help="File to write.", metavar="OUT")],
    scale: Annotated[list[str] | None, typer.Option(help=SCALE_HELP, metavar="SPEC")] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="Highest rank of the result, reached by SVD. [default: exact; ties and dare need a rank]"),
    ] = None,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "sum",
    choose: Annotated[str | None, typer.Option(help=CHOOSE_HELP, metavar="TEXT")] = None,
    density: Annotated[
        float | None, typer.Option(help="Share of numbers that ties (0.2) or dare (0.5) keeps of each delta.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed for the numbers that dare drops, and for what ziplora draws. [default: 0]", min=0),
    ] = None,
    to: Annotated[str | None, typer.Option(help=f"{FORM_HELP} [default: {KOHYA}]")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"{DTYPE_HELP} [default: that of the adapters, or of INTO]")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Base model of the adapters, whose weights OFT, DoRA and some other algorithms need."),
    ] = None,
    into: Annotated[str | None, typer.Option(help=INTO_HELP, metavar="BASE")] = None,
    data_a: Annotated[
        Path | None,
        typer.Option(help="Folder of captioned images of adapter A.", metavar="DIR", rich_help_panel=ZIPLORA_PANEL),
    ] = None,
    data_b: Annotated[
        Path | None,
        typer.Option(help="Folder of captioned images of adapter B.", metavar="DIR", rich_help_panel=ZIPLORA_PANEL),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Number of learning steps. [default: 40]", min=0, rich_help_panel=ZIPLORA_PANEL),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate. [default: 0.03]", rich_help_panel=ZIPLORA_PANEL)
    ] = None,
    drop_unknown: Annotated[bool, typer.Option("--drop-unknown", help=DROP_UNKNOWN_HELP)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Merge adapters into one, exactly or at a lower rank, or fold them into a base model.

    Scales are paired with adapters in order. A sum is exact: its rank is the sum of the ranks, unless --rank lowers it.
    """
    from bwlab.merging.into_base import merge_into
    from bwlab.merging.merge import MergeRecipe, merge
    from bwlab.merging.methods import BLOCKS, SUM, TIES, ZIPLORA, Method
    from bwlab.merging.output import Target
    from bwlab.plugins.manager import installed_manager
    from bwlab.terminal import track

    data = (data_a, data_b)
    if method == ZIPLORA:
        without = {"--scale": scale, "--choose": choose, "--density": density, "--into": into}
        refuse_options(method, without | {"--drop-unknown": drop_unknown or None})
        target = Target(out, to or KOHYA, dtype, overwrite)
        show(merge_by_ziplora(adapters, data, base, target, ziplora_values(seed or 0, steps, lr), rank))
        return
    refuse_options(method, {"--data-a": data_a, "--data-b": data_b, "--steps": steps, "--lr": lr})
    name = BLOCKS if choose is not None and method == SUM else method
    if seed is not None and name in (SUM, BLOCKS, TIES):
        raise BwlabError(f"--seed with --method {name}", "it draws no numbers", "Leave out --seed")
    recipe = MergeRecipe(tuple(adapters), tuple(scale or ()), Method(name, density, seed or 0), choose, drop_unknown)
    manager = installed_manager()
    if into is None:
        target = Target(out, to or KOHYA, dtype, overwrite)
        show(merge(recipe, target, manager, rank=rank, base=base, track=lambda every: track(every, "merging modules")))
        return
    for option, given in {"--rank": rank, "--base": base, "--to": to}.items():
        if given is not None:
            raise BwlabError(f"{option} with --into", INTO_IS_EXACT, f"Leave out {option}")
    show(
        merge_into(
            recipe,
            into,
            out,
            manager,
            dtype=dtype,
            overwrite=overwrite,
            track=lambda every: track(every, "merging modules"),
        )
    )


def refuse_options(method: str, options: Mapping[str, object]) -> None:
    """Raise BwlabError for a given option that has no meaning with the method."""
    for option, value in options.items():
        if value is not None:
            if method == "ziplora":
                found = "ziplora learns the weights of the adapters itself"
                raise BwlabError(f"{option} with --method {method}", found, f"Leave out {option}")
            found = "only ziplora learns from images"
            raise BwlabError(f"{option} with --method {method}", found, f"Give --method ziplora, or leave out {option}")


def ziplora_values(seed: int, steps: int | None, lr: float | None) -> ZipLoraSettings:
    """Return the settings of ZipLoRA from the options."""
    from bwlab.merging.ziplora import ZipLoraSettings

    if lr is not None and not 0 < lr < math.inf:
        raise BwlabError(f"--lr {lr:g}", "a learning rate is a finite number above 0", "Give one such as 0.03")
    plain = ZipLoraSettings(seed=seed)
    return replace(plain, steps=plain.steps if steps is None else steps, lr=plain.lr if lr is None else lr)


def merge_by_ziplora(
    adapters: Sequence[Path],
    data: tuple[Path | None, Path | None],
    base: str | None,
    target: Target,
    settings: ZipLoraSettings,
    rank: int | None,
) -> Outcome:
    """Merge two adapters by ZipLoRA; BwlabError if an adapter, a folder or the base is missing."""
    from bwlab.merging.ziplora import ZipLoraRecipe, load_frozen_base, merge_ziplora
    from bwlab.plugins.manager import installed_manager
    from bwlab.terminal import ProgressBar

    data_a, data_b = data
    if len(adapters) != 2:
        raise BwlabError("--method ziplora", counted(len(adapters), "adapter"), "Give two adapters")
    if data_a is None or data_b is None:
        fix = "Give the folders of images that each adapter was trained on"
        raise BwlabError("--method ziplora", "no --data-a and --data-b", fix)
    if base is None:
        raise BwlabError("--method ziplora", "no --base", "Give the base model that the adapters were trained on")
    recipe = ZipLoraRecipe((adapters[0], adapters[1]), (data_a, data_b), settings)
    manager = installed_manager()
    with ProgressBar("learning column weights") as bar:
        return merge_ziplora(recipe, load_frozen_base(base, manager), target, manager, rank=rank, on_step=bar.update)


def fit_table(outcome: Outcome) -> Table:
    """Return the table of the energy that the low rank keeps of each block and of all blocks."""
    from rich import box
    from rich.table import Table

    from bwlab.merging.output import fit_rows

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("block", style="bold", no_wrap=True)
    for header in ("modules", "rank before", "rank", "energy kept", "relative error"):
        table.add_column(header, justify="right", no_wrap=True)
    *blocks, whole = fit_rows(outcome.fits, outcome.scheme)
    for row in blocks:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(whole), style="bold")
    return table


def lines(outcome: Outcome) -> list[str]:
    """Return a line for each file that was written, followed by the notes."""
    first, *others = outcome.files
    what = counted(outcome.modules, "module") if outcome.modules else "a token's embedding"
    zeros = sum(fit.after == 0 for fit in outcome.fits)
    notes = [f"left out: {counted(zeros, 'module')} whose delta is zero"] if zeros else []
    return [f"{first}: {what}", *(f"{path}: a token's embedding" for path in others), *notes, *outcome.notes]


def _cells(row: FitRow) -> list[str]:
    before = "dense" if row.before is None else _span(row.before)
    return [row.name, str(row.modules), before, _span(row.after), f"{row.kept:.2%}", f"{row.error:.2e}"]


def _span(ranks: tuple[int, int]) -> str:
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]}-{ranks[1]}"


def show(outcome: Outcome) -> None:
    """Print the table of approximations, if there are any, and the files."""
    from bwlab.terminal import stdout_console

    if outcome.fits:
        stdout_console().print(fit_table(outcome))
    for line in lines(outcome):
        echo(line)
