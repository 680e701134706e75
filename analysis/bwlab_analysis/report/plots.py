"""Matplotlib figures of the reports, for notebooks and papers (`pip install bwlab[plots]`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from bwlab.errors import BwlabError
from bwlab_analysis.measures import ALL_TIMES, Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bwlab_analysis.activations.changes import ActivationReport
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.fidelity.recommend import Recommendation
    from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores
    from bwlab_analysis.report.all_pairs import PairsSummary
    from bwlab_analysis.weights.conflict import ConflictReport
    from bwlab_analysis.weights.norms import NormsReport


def plot_norms(report: NormsReport) -> Figure:
    """Return a bar chart of the Frobenius norm of each block's delta, of the base's weights if they are known."""
    relative = all(block.relative is not None for block in report.blocks)
    heights = {block.name: (block.relative if relative else block.norm) or 0.0 for block in report.blocks}
    figure, (axes,) = panels(1.5 + 0.5 * len(heights), 3.2)
    axes.bar(range(len(heights)), list(heights.values()))
    axes.set_xticks(range(len(heights)), list(heights))
    axes.set_ylabel("|delta| / |W|" if relative else "|delta|")
    axes.set_title(report.file.name)
    return figure


def plot_pairs(summary: PairsSummary) -> Figure:
    """Return a bar chart of the overlap of the directions written into, of the nearest pairs."""
    heights = {
        f"{summary.names[a]} and {summary.names[b]}": float((total.get("out_overlap") or {"value": 0.0})["value"])
        for (a, b), total in summary.nearest
    }
    figure, (axes,) = panels(7, 1 + 0.3 * max(1, len(heights)))
    axes.barh(range(len(heights)), list(heights.values()))
    axes.set_yticks(range(len(heights)), list(heights))
    axes.invert_yaxis()
    axes.set_xlabel("out overlap")
    return figure


def plot_scores(conditions: Sequence[ConditionScores], scorers: Sequence[str]) -> Figure:
    """Return a bar chart of the scores of compositions, with 95 % intervals."""
    scores = {name: [condition.scores[name] for condition in conditions] for name in scorers}
    return _groups([condition.name for condition in conditions], scores)


def plot_recommendation(recommendation: Recommendation) -> Figure:
    """Return a bar chart of the shares of both adapters at scale 1 and of the best composition, of the proof's images.

    Without a proof it shows those of the search.
    """
    proof = recommendation.proof
    if proof is not None:
        compared = {"both at scale 1": proof.whole_shares, "the best of the search": proof.best_shares}
    else:
        whole = next(trial for trial in recommendation.trials if not trial.moves)
        compared = {"both at scale 1": whole.shares, recommendation.trials[0].reason: recommendation.trials[0].shares}
    kinds = ("identity", "style", "text", "balance")
    shares = {
        name: [Interval(value, value, value) for value in (getattr(own, kind) for kind in kinds)]
        for name, own in compared.items()
    }
    figure = _groups(kinds, shares)
    figure.axes[0].set_ylabel("share of the way from the base to the reference images")
    return figure


def _groups(names: Sequence[str], values: Mapping[str, Sequence[Interval]], width: float | None = None) -> Figure:
    """Return bars side by side for each name, one of each kind, with their intervals; `width` is in inches."""
    figure, (axes,) = panels(width or 2 + 1.1 * len(names), 3.2)
    bar = 0.8 / len(values)
    for offset, (kind, intervals) in enumerate(values.items()):
        places = [index + bar * (offset + 0.5) - 0.4 for index in range(len(names))]
        errors = [[one.mean - one.low for one in intervals], [one.high - one.mean for one in intervals]]
        axes.bar(places, [one.mean for one in intervals], 0.9 * bar, yerr=errors, capsize=2, label=kind)
    axes.set_xticks(range(len(names)), names)
    axes.legend()
    return figure


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
    changes = {
        label: [getattr(profile, name)[scorer] for profile in own]
        for name, label in (("knocked_in", "alone"), ("knocked_out", "beside the other"))
    }
    figure = _groups([profile.block for profile in own], changes, width=7)
    (axes,) = figure.axes
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_ylabel(f"change of {scorer}")
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
    figure = _figure_class()(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


@cache
def _figure_class() -> type[Figure]:
    """Return matplotlib's figure as one that notebooks show without pyplot, which would keep every figure open."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BwlabError("a figure", "matplotlib is not installed", "pip install 'bwlab[plots]'") from error

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            written = io.BytesIO()
            self.savefig(written, format="png")
            return written.getvalue()

    return ShownFigure
