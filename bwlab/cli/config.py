"""`bwlab config`: show or write the settings of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bwlab.cli.translated import FromOption, require_data, translated
from bwlab.config.sources import Setting
from bwlab.errors import BwlabError
from bwlab.terminal import echo
from bwlab.training.settings import PresetName

app = typer.Typer(help="Show or write the settings of a training run.", no_args_is_help=True)

PresetOption = Annotated[PresetName | None, typer.Option(help="Preset that the other settings override.")]


@app.command("init")
def init_command(
    file: Annotated[Path | None, typer.Argument(help="TOML file to write. [default: standard output]")] = None,
    preset: PresetOption = None,
    source: FromOption = None,
) -> None:
    """Write a settings file to start from, with the default and the description of every setting.

    With --from it holds the settings of another trainer. If that trains on several folders or sizes, they are written
    into a dataset file beside the settings.
    """
    from bwlab.config.toml import commented_toml
    from bwlab.files import write_atomically
    from bwlab.training.settings import build_config, collect

    translation = translated(source)
    sources = collect(None, preset, {}, (), translation.settings)
    files: dict[Path, str] = {}
    if translation.dataset is not None and file is not None:
        data = file.with_name(f"{file.stem}-dataset.toml")
        files[data] = translation.dataset
        sources.append(Setting("data.dataset", str(data), f"{translation.program}'s folders"))
    text = commented_toml(build_config(sources), sources)
    if file is None:
        require_data(translation, sources)
        echo(text, nl=False, exact=True)
        return
    files[file] = text
    for path in files:
        if path.exists():
            raise BwlabError(f"config {path}", "the file exists", "Choose another name, or delete it first")
    for path, contents in files.items():
        write_atomically(path, contents.encode())
        echo(path, exact=True)


@app.command("show")
def show_command(
    config: Annotated[Path | None, typer.Argument(help="TOML file with settings.", show_default=False)] = None,
    preset: PresetOption = None,
    source: FromOption = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, such as training.lr=1e-4.", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Print the settings of a run, each with the source of its value."""
    from bwlab.config.toml import toml_with_origins
    from bwlab.training.settings import build_config, collect

    sources = collect(config, preset, {}, settings or (), translated(source).settings)
    echo(toml_with_origins(build_config(sources), sources), nl=False, exact=True)
