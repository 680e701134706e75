"""The option --from of commands that take the settings of a training run: another trainer's command or config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError
from bwlab.terminal import echo, note, warn

if TYPE_CHECKING:
    from bwlab.config.sources import Setting
    from bwlab.foreign.translator import Translation

FromOption = Annotated[
    str | None,
    typer.Option(
        "--from-kohya",
        "--from",
        metavar="FILE|COMMAND",
        help="Settings of another trainer: a command of kohya's sd-scripts in quotation marks, a script that holds it "
        "or its TOML; a JSON of OneTrainer; a YAML of ai-toolkit. Settings that are given beside it win.",
    ),
]


def translated(source: str | None) -> Translation:
    """Return what a command or config of another trainer means, and say on standard error what was not translated."""
    from bwlab.foreign.read import translate
    from bwlab.foreign.translator import Translation

    if source is None:
        return Translation("", ())
    translation = translate(source)
    for warning in translation.warnings:
        warn(warning)
    for text in translation.notes:
        note(text)
    return translation


def show_translated(translation: Translation, sources: Sequence[Setting]) -> None:
    """Print each setting that comes from another trainer, with its source there."""
    from bwlab.config.toml import lines_with_origins

    for line in lines_with_origins([setting for setting in translation.settings if setting in sources]):
        echo(line)


def names_data(sources: Sequence[Setting]) -> bool:
    """Return whether settings name a folder of images or a dataset file."""
    return any(setting.key in ("data.folder", "data.dataset") for setting in sources)


def require_data(translation: Translation, sources: Sequence[Setting]) -> None:
    """Raise BwlabError if the data of another trainer are a dataset file that is not written yet."""
    if translation.dataset is not None and not names_data(sources):
        found = f"{translation.program}'s data are several folders or sizes, which are a dataset file here"
        fix = "'bwlab config init FILE.toml --from ...' writes it beside the settings; or give --data or --dataset"
        raise BwlabError("bwlab train --from", found, fix)
