"""The presentation of `bwlab analyze activations`: changes by one adapter, for each block and timestep."""

from __future__ import annotations

from statistics import fmean

from bwlab.terminal import counted
from bwlab_analysis.activations.changes import CHANGES, ActivationReport
from bwlab_analysis.report.numbers import heat_table, times_of
from bwlab_analysis.report.presentation import BlockMap, Presentation, Section


def present_activations(file: str, base: str, report: ActivationReport) -> Presentation:
    """Return the presentation of an adapter's changes in a base, with a table for each measure."""
    blocks = list(dict.fromkeys(change.block for change in report.changes))
    tables = []
    for measure in CHANGES:
        values = {(change.block, f"t {change.timestep}"): change.measures[measure] for change in report.changes}
        tables.append(heat_table(measure.capitalize(), "block", blocks, times_of(report.timesteps), values))
    summary = (
        f"{file} in {base}, on {counted(report.latents, 'latent')} ({report.inputs}). The adapter has layers in "
        f"{', '.join(report.changed_blocks)}.{random_note(report.draws)}"
    )
    details = (Section("Changes of activations by block and timestep", tuple(tables)),)
    conclusion = Section("Summary", (summary, BlockMap({name: _means(report, name) for name in CHANGES})))
    return Presentation(f"What {file} changes in {base}", conclusion, details)


def random_note(draws: int) -> str:
    """Return the note on numbers in brackets with a leading space, or an empty text without random adapters."""
    return f" In brackets: {counted(draws, 'random adapter')} of the same norms." if draws else ""


def _means(report: ActivationReport, measure: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for change in report.changes:
        values.setdefault(change.block, []).append(change.measures[measure].value)
    return {block: fmean(numbers) for block, numbers in values.items()}
