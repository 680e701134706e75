"""`bwlab analyze conflict`: overlaps of adapters in their weights, and with a base, conflicts between them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.adapters.names import adapter_names
from bwlab.errors import BwlabError
from bwlab.terminal import letters
from bwlab_analysis.cli.options import (
    CellsOption,
    DeviceOption,
    JsonOption,
    LatentsOption,
    ReportOption,
    SeedOption,
    TimestepsOption,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab_analysis.activations.losses import LossReport
    from bwlab_analysis.activations.pair import BaseSettings, Compared
    from bwlab_analysis.measures import Json
    from bwlab_analysis.report.presentation import Presentation


def conflict_command(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Two or more adapter files: a, b ...", show_default=False)],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model to measure activations and losses in: emoji, a diffusers folder, or a checkpoint.",
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
            help="Text file with one prompt per line; the base generates images for them to measure on.", metavar="FILE"
        ),
    ] = None,
    timesteps: TimestepsOption = "801,601,401,201",
    latents: LatentsOption = 16,
    draws: Annotated[
        int, typer.Option("--random", min=0, help="Number of random adapters that replace each adapter, as the null.")
    ] = 5,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    cells: CellsOption = False,
    signs: Annotated[
        bool, typer.Option("--signs", help="Also measure the sign conflict, which multiplies all deltas out.")
    ] = False,
    report: ReportOption = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also print all measures of weights and activations, and the blame.")
    ] = False,
) -> None:
    """Compare two or more adapters by their weights and, with --base, by their effects on each other in a base model.

    The files alone give measures of the weights, each beside the value of a random pair. With --base, the activations
    of the base are compared with each adapter alone and with both. With the adapters' training images in --data, the
    losses show how much of its training each adapter keeps beside the other. With more than two adapters, every pair
    is compared, and each adapter with all others together.
    """
    from bwlab_analysis.activations.pair import BaseSettings

    names = named_files(files)
    settings = None
    if base is not None:
        from bwlab_analysis.activations.inputs import parse_timesteps, require_inputs

        times, folders = parse_timesteps(timesteps), data_folders(data or (), names)
        texts = require_inputs(prompts, folders.values(), "--data NAME=DIR")
        settings = BaseSettings(base, folders, prompts, texts, times, latents, draws, seed, device)
    else:
        _require_no_base_options(context, {field.name for field in fields(BaseSettings)})
    comparison = compare(names, settings, signs)
    from bwlab_analysis.report.show import show

    show(
        lambda: _presentation(comparison, cells),
        lambda: _document(comparison),
        as_json=as_json,
        report=report,
        images=lambda: _images(comparison.names, settings),
        details=details,
    )


def named_files(files: Sequence[Path]) -> tuple[tuple[str, Path], ...]:
    """Return the adapter files with their names; BwlabError for fewer than two, or one of three or more given twice."""
    if len(files) < 2:
        raise BwlabError("bwlab analyze conflict", f"{len(files)} adapter file", "Give two or more adapter files")
    if len(files) > 2 and len(set(files)) < len(files):
        raise BwlabError("bwlab analyze conflict", "a file is given twice", "Give each file once")
    return tuple(zip(adapter_names(files), files, strict=True))


def data_folders(texts: Sequence[str], names: Sequence[tuple[str, Path]]) -> dict[Path, Path]:
    """Return the folder of training images of each adapter file that has one.

    Args:
        texts: the values of `--data`, each `NAME=DIR`.
        names: the adapter files with their names; letters by position name them too.

    Raises:
        BwlabError: a value has no name or folder, names no adapter, or names one again.

    """
    known = dict(zip(letters(len(names)), (file for _, file in names), strict=True)) | dict(names)
    folders: dict[Path, Path] = {}
    for text in texts:
        # A name may hold an equals sign.
        name = max((name for name in known if text.startswith(f"{name}=")), key=len, default=None)
        choices = f"{', '.join(name for name, _ in names)} (or {', '.join(letters(len(names)))})"
        if name is None or text == f"{name}=":
            wrong = "it names none of these adapters" if "=" in text[:-1] else "it is not NAME=DIR"
            raise BwlabError(f"--data {text}", wrong, f"Write NAME=DIR with a name of {choices}")
        if known[name] in folders:
            raise BwlabError(f"--data {text}", f"{name} has images already", "Give one folder for each adapter")
        folders[known[name]] = Path(text.removeprefix(f"{name}="))
    return folders


def _require_no_base_options(context: typer.Context, base_options: Container[str]) -> None:
    """Raise BwlabError for options that have no effect without a base but were given."""
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name in base_options and source is not None and source.name == "COMMANDLINE":
            asked = f"bwlab analyze conflict {option.opts[0]}"
            raise BwlabError(asked, "this option needs a base model, and none is given", "Add --base BASE")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several adapters compared.

    Attributes:
        names: short names of the adapters by file.
        pairs: every pair of them.
        together: the losses on each adapter's training images beside all others, of three or more adapters.

    """

    names: Mapping[Path, str]
    pairs: Sequence[Compared]
    together: Mapping[Path, LossReport]


def compare(names: Sequence[tuple[str, Path]], settings: BaseSettings | None, signs: bool) -> Comparison:
    """Return the comparison of each pair's weights, made without torch, and its effects in a base if there is one."""
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import ProgressBar, track, warn
    from bwlab_analysis.activations.pair import measure_in_base
    from bwlab_analysis.installed import conflict_measures
    from bwlab_analysis.weights.adapter_weights import weights_of
    from bwlab_analysis.weights.conflict import measure_conflict

    manager = build_manager()
    measures = [measure for measure in conflict_measures(manager, warn) if signs or not measure.slow]
    weights = weights_of(settings.base if settings is not None else None)
    pairs = list(combinations(names, 2))
    # One pair takes too little time for a bar.
    reports = [
        measure_conflict(a, b, measures, manager, weights, (name_a, name_b))
        for (name_a, a), (name_b, b) in (track(pairs, "comparing weights") if len(pairs) > 1 else pairs)
    ]
    by_file = {file: name for name, file in names}
    if settings is None:
        return Comparison(by_file, [(report, None) for report in reports], {})
    with ProgressBar("measuring in the base") as bar:

        def on_pass(done: int, total: int, stage: str) -> None:
            bar.update(done, total, stage)

        measured = measure_in_base([file for _, file in names], settings, manager, on_pass)
    in_base = [(report, measured.pairs[report.file_a, report.file_b]) for report in reports]
    return Comparison(by_file, in_base, measured.together)


def _presentation(comparison: Comparison, cells: bool) -> Presentation:
    from bwlab_analysis.report.conflict import present_conflict
    from bwlab_analysis.report.matrix import present_conflicts

    if len(comparison.pairs) == 1:
        return present_conflict(*comparison.pairs[0], cells)
    return present_conflicts(comparison.names, comparison.pairs, comparison.together, cells)


def _images(names: Mapping[Path, str], settings: BaseSettings | None) -> dict[str, Image]:
    """Return the images of the report: some training images of each adapter that has them."""
    from bwlab_analysis.report.gallery import training_strips

    return training_strips({} if settings is None else {names[file]: folder for file, folder in settings.data.items()})


def _document(comparison: Comparison) -> dict[str, Json]:
    from bwlab_analysis.report.documents import conflict_document, conflicts_document

    if len(comparison.pairs) == 1:
        return conflict_document(*comparison.pairs[0])
    return conflicts_document(comparison.names, comparison.pairs, comparison.together)
