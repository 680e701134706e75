"""The entry point of the plugin: `bwlab ui`. It imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def bwlab_register_commands(app: typer.Typer) -> None:
    """Add `bwlab ui`."""
    from bwlab_ui.command import command

    app.command("ui")(command)
