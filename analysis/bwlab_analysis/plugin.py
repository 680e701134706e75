"""The entry point of the analysis: its hooks, its own measures, and the commands under ``bwlab analyze``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.hookspecs import hookimpl

if TYPE_CHECKING:
    import pluggy
    import typer

    from bwlab_analysis.registry import BlockMetric, ConflictMeasure


@hookimpl
def bwlab_declare_hooks(manager: pluggy.PluginManager) -> None:
    """Add the analysis' hooks."""
    from bwlab_analysis import hookspecs

    manager.add_hookspecs(hookspecs)


@hookimpl
def bwlab_register_commands(app: typer.Typer) -> None:
    """Add ``bwlab analyze`` and ``bwlab study``."""
    import typer

    from bwlab_analysis import commands, model_commands
    from bwlab_analysis.study import commands as study_commands

    analyze = typer.Typer(help="Look inside adapter files.", no_args_is_help=True)
    commands.add_to(analyze)
    model_commands.add_to(analyze)
    app.add_typer(analyze, name="analyze")
    study_commands.add_to(app)


@hookimpl
def register_block_metrics() -> list[BlockMetric]:
    """Return effective rank and top-1 share."""
    from bwlab_analysis.spectrum import EFFECTIVE_RANK, TOP1_SHARE

    return [EFFECTIVE_RANK, TOP1_SHARE]


@hookimpl
def register_conflict_measures() -> list[ConflictMeasure]:
    """Return cosine, out and in overlap, the smallest angle, and the sign conflict."""
    from bwlab_analysis.pairs import ANGLE, COSINE, IN_OVERLAP, OUT_OVERLAP, SIGN_CONFLICT

    return [COSINE, OUT_OVERLAP, IN_OVERLAP, ANGLE, SIGN_CONFLICT]
