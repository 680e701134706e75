"""Matplotlib figures of the reports, for notebooks and papers (`pip install bwlab[plots]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.errors import BwlabError
from bwlab_analysis.measures import ALL_TIMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bwlab_analysis.activations.changes import ActivationReport
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.fidelity.scores import BlockProfile
    from bwlab_analysis.weights.conflict import ConflictReport


def plot_interaction(report: InteractionReport, measures: Sequence[str] = ("retention_a", "retention_b")) -> Figure:
    """Return a bar chart of a pair's measures by block over all timesteps; lines show the range of random adapters."""
    places = [place for place in report.effects if place.timestep == ALL_TIMES]
    values = {name: {place.block: place.measures[name] for place in places} for name in measures}
    return _bars(values, "share kept" if all("retention" in name for name in measures) else "")


def plot_conflict(report: ConflictReport, measures: Sequence[str] = ("out_overlap", "in_overlap")) -> Figure:
    """Return a bar chart of measures of two adapters' weights by block; lines show the range of random adapters."""
    values = {name: {block.name: block.measures[name] for block in report.blocks} for name in measures}
    figure = _bars(values, " and ".join(name.replace("_", " ") for name in measures))
    figure.suptitle(" and ".join(report.names))
    return figure


def plot_activations(report: ActivationReport, measure: str = "effect") -> Figure:
    """Return a heatmap of a measure by block and timestep.

    Raises:
        BwlabError: the report has no such measure.

    """
    known = list(report.changes[0].measures)
    if measure not in known:
        raise BwlabError(f"a figure of {measure}", "no such measure", f"Choose from {', '.join(known)}")
    blocks = list(dict.fromkeys(change.block for change in report.changes))
    rows = [[report.at(block, time).measures[measure].value for time in report.timesteps] for block in blocks]
    figure, (axes,) = panels(1 + 0.8 * len(report.timesteps), 1 + 0.35 * len(blocks))
    drawn = axes.imshow(rows, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(report.timesteps)), [str(time) for time in report.timesteps])
    axes.set_yticks(range(len(blocks)), blocks)
    axes.set_xlabel("timestep")
    axes.set_title(f"{measure} of the adapter")
    figure.colorbar(drawn, ax=axes)
    return figure


def plot_profiles(profiles: Sequence[BlockProfile], scorer: str, adapter: str) -> Figure:
    """Return a bar chart of one score's change by each block of `"identity"` or `"style"`, with 95 % intervals.

    Raises:
        BwlabError: there is no profile of that adapter.

    """
    own = [profile for profile in profiles if profile.adapter == adapter]
    if not own:
        raise BwlabError(
            f"a figure of the {adapter} adapter", "no block of this adapter was profiled", "Choose identity or style"
        )
    figure, (axes,) = panels(7, 3.2)
    for offset, (name, label) in enumerate((("knocked_in", "alone"), ("knocked_out", "beside the other"))):
        changes = [getattr(profile, name)[scorer] for profile in own]
        places = [index + 0.4 * offset - 0.2 for index in range(len(own))]
        errors = [
            [change.mean - change.low for change in changes],
            [change.high - change.mean for change in changes],
        ]
        axes.bar(places, [change.mean for change in changes], 0.36, yerr=errors, capsize=2, label=label)
    axes.set_xticks(range(len(own)), [profile.block for profile in own])
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_ylabel(f"change of {scorer}")
    axes.legend()
    return figure


def _bars(values: Mapping[str, Mapping[str, Any]], label: str) -> Figure:
    blocks = list(next(iter(values.values())))
    figure, (axes,) = panels(1.5 + 0.75 * len(blocks), 3.2)
    width = 0.8 / len(values)
    for offset, (name, measures) in enumerate(values.items()):
        places = [index + width * (offset + 0.5) - 0.4 for index in range(len(blocks))]
        heights = [measured.value if (measured := measures[block]) is not None else 0.0 for block in blocks]
        axes.bar(places, heights, 0.9 * width, label=name.replace("_", " "))
        for place, block in zip(places, blocks, strict=True):
            measured = measures[block]
            if measured is not None and measured.random is not None:
                spread = measured.random_sd or 0.0
                axes.errorbar(place, measured.random, yerr=spread, color="black", capsize=3, fmt="_")
    axes.set_xticks(range(len(blocks)), blocks)
    axes.set_ylabel(label)
    axes.set_title("black: random adapters", fontsize="small")
    axes.legend()
    return figure


def panels(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    """Return a figure of the given size in inches, and its axes from left to right.

    Raises:
        BwlabError: matplotlib is not installed.

    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BwlabError("a figure", "matplotlib is not installed", "pip install 'bwlab[plots]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])
