"""`bwlab config`: show or write the settings of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.errors import BwlabError
from bwlab.terminal import echo
from bwlab.training.settings import PresetName

app = typer.Typer(help="Show or write the settings of a training run.", no_args_is_help=True)

PresetOption = Annotated[PresetName | None, typer.Option(help="Preset that the other settings override.")]


@app.command("init")
def init_command(
    file: Annotated[Path | None, typer.Argument(help="TOML file to write. [default: standard output]")] = None,
    preset: PresetOption = None,
) -> None:
    """Write a settings file to start from, with the default and the description of every setting."""
    from bwlab.config.toml import commented_toml
    from bwlab.files import write_atomically
    from bwlab.training.settings import read_config

    text = commented_toml(read_config(preset_name=preset))
    if file is None:
        echo(text, nl=False, exact=True)
        return
    if file.exists():
        raise BwlabError(f"config {file}", "the file exists", "Choose another name, or delete it first")
    write_atomically(file, text.encode())
    echo(file, exact=True)


@app.command("show")
def show_command(
    config: Annotated[Path | None, typer.Argument(help="TOML file with settings.", show_default=False)] = None,
    preset: PresetOption = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, such as training.lr=1e-4.", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Print the settings of a run, each with the source of its value."""
    from bwlab.config.toml import toml_with_origins
    from bwlab.training.settings import build_config, collect

    sources = collect(config, preset, {}, settings or ())
    echo(toml_with_origins(build_config(sources), sources), nl=False, exact=True)
