"""`bwlab analyze conflict`: overlaps of adapters in their weights, and with a base, conflicts between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bwlab.errors import BwlabError
from bwlab.terminal import letters
from bwlab_analysis.cli.options import (
    CellsOption,
    ClipOption,
    ClipSkipOption,
    DeviceOption,
    JsonOption,
    LatentsOption,
    ReportOption,
    SeedOption,
    TimestepsOption,
    progress,
)

# Parameters of the options that have no effect without --base.
BASE_OPTIONS = frozenset(
    {
        *("data", "prompts", "timesteps", "latents", "draws", "seed", "clip_skip", "device"),
        *("samples", "steps", "cfg", "clip", "learns", "advise", "budget"),
    }
)


def conflict_command(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Two or more adapter files: a, b ...", show_default=False)],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model to measure effects and losses in: emoji, emoji-dit, a diffusers folder, or a checkpoint.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of an adapter's captioned training images, for the losses on them (repeatable). NAME is the "
            "adapter's short name (fox for fox.safetensors and runs/fox/adapter.safetensors) or its letter: a, b ...",
            metavar="NAME=DIR",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Text file with one prompt per line, to generate images for. [default: the tags that most captions "
            "of both adapters have in common]",
            metavar="FILE",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(min=0, help="Number of images of each composition, to measure what each adapter loses in them."),
    ] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Number of sampling steps of the images of --samples.")] = 10,
    cfg: Annotated[float, typer.Option(help="Guidance scale of the images of --samples.")] = 3.0,
    clip: ClipOption = None,
    learns: Annotated[
        list[str] | None,
        typer.Option(
            help="What an adapter was trained on, identity or style (repeatable). [default: the one in which its "
            "training images are more alike]",
            metavar="NAME=KIND",
        ),
    ] = None,
    advise: Annotated[
        bool,
        typer.Option(
            "--advise",
            help="Also search for scales and schedules that are better than both adapters at scale 1, and prove them "
            "on new images, as 'bwlab analyze recommend' does.",
        ),
    ] = False,
    budget: Annotated[int, typer.Option(min=1, help="Maximum number of images of the search by --advise.")] = 600,
    timesteps: TimestepsOption = "801,601,401,201",
    latents: LatentsOption = 16,
    draws: Annotated[
        int,
        typer.Option(
            "--random",
            min=0,
            help="Number of random adapters that replace each adapter, as the null; generated images show one of them.",
        ),
    ] = 5,
    seed: SeedOption = 0,
    clip_skip: ClipSkipOption = 1,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    cells: CellsOption = False,
    signs: Annotated[
        bool, typer.Option("--signs", help="Also measure the sign conflict, which multiplies all deltas out.")
    ] = False,
    report: ReportOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write the weights of all pairs to, one JSON object in each line. A file that an earlier "
            "command has begun is continued. For many adapters: few are in memory at a time, and those that cannot be "
            "read are named at the end.",
            metavar="FILE.jsonl",
        ),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also print all measures of weights and activations, and the blame.")
    ] = False,
) -> None:
    """Compare two or more adapters by their weights and, with --base, by their effects on each other in a base model.

    The files alone give measures of the weights, each beside the value of a random pair. With --base and the adapters'
    training images in --data, images are generated in a few steps with each adapter alone and with both, and scored:
    they show what each adapter loses beside the other. Activations and losses show in which blocks. With more than two
    adapters, every pair is compared, and each adapter with all others together. --out is for very many adapters.
    """
    from bwlab.terminal import warn
    from bwlab_analysis import analyze
    from bwlab_analysis.analyze.arguments import TIMESTEPS, by_file, named_files
    from bwlab_analysis.report.show import show

    times: tuple[int, ...] = TIMESTEPS
    if base is None:
        _require_no_base_options(context)
    else:  # imports torch, which weights alone do not need
        from bwlab_analysis.activations.inputs import parse_timesteps

        times = parse_timesteps(timesteps)
    if out is not None:
        if base is not None:
            raise BwlabError("--out", "only the weights of all pairs are written to a file", "Leave out --base")
        _write_pairs(files, out, signs, cells, as_json, report)
        return
    if not advise and _given(context, "budget"):
        raise BwlabError("--budget", "no composition is searched without --advise", "Add --advise")
    names = named_files(files)
    folders = by_file("data", parsed_pairs("data", data or (), names), names)
    learned = by_file("learns", parsed_pairs("learns", learns or (), names), names, str)
    with progress("measuring in the base" if base is not None else "comparing") as on_progress:
        comparison = analyze.conflict(
            *files,
            base=base,
            data=folders,
            prompts=prompts or (),
            timesteps=times,
            latents=latents,
            random=draws,
            seed=seed,
            clip_skip=clip_skip,
            device=device,
            samples=samples,
            steps=steps,
            cfg=cfg,
            clip=clip,
            learns=learned,
            advise=advise,
            budget=budget,
            signs=signs,
            on_progress=on_progress,
            warn=warn,
        )
    show(
        lambda: comparison.presentation(cells),
        comparison.document,
        as_json=as_json,
        report=report,
        images=comparison.images,
        details=details,
    )


def _write_pairs(files: list[Path], out: Path, signs: bool, cells: bool, as_json: bool, report: Path | None) -> None:
    """Write all pairs to a file, show the nearest ones, and name the adapters that cannot be read at the end."""
    from bwlab.terminal import print_error, warn
    from bwlab_analysis import analyze
    from bwlab_analysis.report.show import show

    with progress("comparing") as on_progress:
        result = analyze.conflict_pairs(*files, out=out, signs=signs, cells=cells, on_progress=on_progress, warn=warn)
    show(result.presentation, result.document, as_json=as_json, report=report)
    for error in result.report.unreadable.values():
        print_error(error)
    raise typer.Exit(2 if result.report.unreadable else 0)


def parsed_pairs(option: str, texts: Sequence[str], names: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, str]]:
    """Yield the name of an adapter and the value that each text of an option, such as `NAME=DIR`, gives it.

    Args:
        option: name of the option.
        texts: the texts.
        names: the adapter files with their names; letters by position name them too.

    Raises:
        BwlabError: a text has no name or no value.

    """
    from bwlab_analysis.analyze.arguments import names_to_write

    known = [*letters(len(names)), *(name for name, _ in names)]
    for text in texts:
        # A name may hold an equals sign.
        name = max((name for name in known if text.startswith(f"{name}=")), key=len, default=text.partition("=")[0])
        if "=" not in text[:-1] or text == f"{name}=":
            raise BwlabError(f"--{option} {text}", "it has no name or no value", names_to_write(names))
        yield name, text.removeprefix(f"{name}=")


def _require_no_base_options(context: typer.Context) -> None:
    """Raise BwlabError for options that have no effect without a base but were given."""
    for option in context.command.params:
        if option.name in BASE_OPTIONS and _given(context, option.name):
            asked = f"bwlab analyze conflict {option.opts[0]}"
            raise BwlabError(asked, "this option needs a base model, and none is given", "Add --base BASE")


def _given(context: typer.Context, name: str) -> bool:
    """Return whether an option was written on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
