"""The numbers that colour the blocks: energy and overlap of the weights, and effects and conflict in the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab_analysis.report.block_map import texts_and_strengths
from bwlab_ui.models import Model
from bwlab_ui.settings import ImageSettings
from bwlab_ui.work import Job, Json

if TYPE_CHECKING:
    from bwlab_analysis.report.presentation import Presentation

Groups = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Group -> measure -> block -> value."""
ENERGY, CONFLICT, EFFECT = "energy", "conflict", "effect"
LATENTS = 8


def of_weights(files: Sequence[Path], names: Sequence[str]) -> Groups:
    """Return each adapter's share of its energy by block and, of two adapters, the overlap of their weights."""
    from bwlab_analysis import analyze

    energy = {
        f"energy of {name}": {
            group.name: group.share for group in analyze.norms(file).report.blocks if group.share is not None
        }
        for file, name in zip(files, names, strict=True)
    }
    overlaps: dict[str, Mapping[str, float]] = {}
    for a, b in combinations(range(len(files)), 2):
        compared = analyze.conflict(files[a], files[b])
        beside = f": {names[a]} and {names[b]}" if len(files) > 2 else ""
        overlaps |= {f"{name}{beside}": values for name, values in maps(compared.presentation()).items()}
    return {ENERGY: energy, CONFLICT: overlaps}


def in_base(model: Model, pair: tuple[Path, Path], names: tuple[str, str], settings: ImageSettings, job: Job) -> Groups:
    """Return the effect of two adapters on each block of the base, and what is left of it beside the other adapter.

    The base is used until all is measured; images wait for that.
    """
    from bwlab_analysis.activations.pair import BaseSettings, measure_in_base
    from bwlab_analysis.analyze.arguments import TIMESTEPS
    from bwlab_analysis.measures import ALL_TIMES

    adapters = {file: model.adapter(file) for file in pair}
    asked = BaseSettings(model.loaded.base, {}, None, (settings.prompt,), TIMESTEPS, LATENTS, 0, settings.seed)
    with model.turns.between(job.check):
        measured = measure_in_base(model.loaded, pair, adapters, asked, job.report)
    (found,) = measured.pairs.values()
    values: dict[str, dict[str, float]] = {}
    for effects in found.interaction.effects:
        for measure, value in effects.measures.items():
            if effects.timestep == ALL_TIMES and value is not None and not value.error:
                values.setdefault(measure, {})[effects.block] = value.value
    a, b = names
    effect = {f"effect of {a}": values.get("effect_a", {}), f"effect of {b}": values.get("effect_b", {})}
    lost = {
        f"share that {own} loses beside {other}": {
            block: 1 - kept for block, kept in values.get(f"retention_{letter}", {}).items()
        }
        for letter, own, other in (("a", a, b), ("b", b, a))
    }
    return {EFFECT: effect, CONFLICT: lost}


def maps(presentation: Presentation) -> dict[str, Mapping[str, float]]:
    """Return the measures of all drawings of blocks in a presentation."""
    from bwlab_analysis.report.presentation import BlockMap

    sections = (presentation.conclusion, *presentation.details)
    drawn: Iterator[BlockMap] = (item for section in sections for item in section.items if isinstance(item, BlockMap))
    return {name: values for block_map in drawn for name, values in block_map.measures.items()}


def shown(groups: Groups) -> Json:
    """Return groups of measures as JSON: the text of each block's value, and the strength -1..1 of its colour."""
    return {
        group: {name: texts_and_strengths(values) for name, values in measures.items() if values}
        for group, measures in groups.items()
    }
