"""The entry point of the plugin: `bwlab base`. It imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def bwlab_register_commands(app: typer.Typer) -> None:
    """Add `bwlab base`."""
    from bwlab_emoji.cli import app as base_app

    app.add_typer(base_app, name="base")
