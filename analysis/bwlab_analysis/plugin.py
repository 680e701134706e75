"""The entry point of the analysis: its hooks, measures and commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    import pluggy
    import typer

    from bwlab.plugins.kinds import PluginKind
    from bwlab_analysis.measures import BlockMetric, ConflictMeasure


@hookimpl
def bwlab_declare_hooks(manager: pluggy.PluginManager) -> None:
    """Add the hooks of the analysis."""
    from bwlab_analysis import hookspecs

    manager.add_hookspecs(hookspecs)


@hookimpl
def bwlab_register_plugin_kinds() -> list[PluginKind]:
    """Return the kinds of the analysis' hooks."""
    from bwlab_analysis.kinds import ANALYSIS_KINDS

    return list(ANALYSIS_KINDS)


@hookimpl
def bwlab_register_commands(app: typer.Typer) -> None:
    """Add `bwlab analyze`, `bwlab study` and `bwlab demo`."""
    import typer

    from bwlab_analysis.cli.conflict import conflict_command
    from bwlab_analysis.cli.demo import demo_command
    from bwlab_analysis.cli.fidelity import activations_command, fidelity_command, recommend_command
    from bwlab_analysis.cli.norms import norms_command
    from bwlab_analysis.cli.study import study_command

    analyze = typer.Typer(
        help="Measure adapters: their weights, conflicts, effects in a base, and fidelity.", no_args_is_help=True
    )
    analyze.command("norms")(norms_command)
    analyze.command("conflict")(conflict_command)
    analyze.command("activations")(activations_command)
    analyze.command("fidelity")(fidelity_command)
    analyze.command("recommend")(recommend_command)
    app.add_typer(analyze, name="analyze")
    app.command("study")(study_command)
    app.command("demo")(demo_command)


@hookimpl
def bwlab_register_block_metrics() -> list[BlockMetric]:
    """Return the effective rank and the top-1 share."""
    from bwlab_analysis.weights.norms import EFFECTIVE_RANK, TOP1_SHARE

    return [EFFECTIVE_RANK, TOP1_SHARE]


@hookimpl
def bwlab_register_conflict_measures() -> list[ConflictMeasure]:
    """Return the cosine, the out and in overlap, the smallest angle, and the sign conflict."""
    from bwlab_analysis.weights.pair_measures import ANGLE, COSINE, IN_OVERLAP, OUT_OVERLAP, SIGN_CONFLICT

    return [COSINE, OUT_OVERLAP, IN_OVERLAP, ANGLE, SIGN_CONFLICT]
