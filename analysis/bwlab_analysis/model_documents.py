"""Reports of a base at work as JSON documents: the tables' numbers, unrounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from bwlab_analysis.advice import notations_of, specs_of, steps_of
from bwlab_analysis.documents import SCHEMA_VERSION, Json, measures_document
from bwlab_analysis.fidelity.telling import carriers, few_pictures, standing
from bwlab_analysis.function.blame import BlockBlame

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme
    from bwlab_analysis.fidelity.bootstrap import Interval
    from bwlab_analysis.fidelity.measure import ConditionScores
    from bwlab_analysis.fidelity.profile import BlockProfile
    from bwlab_analysis.function.activations import ActivationReport
    from bwlab_analysis.function.interaction import InteractionReport
    from bwlab_analysis.function.losses import Loss, LossReport
    from bwlab_analysis.recommend import Trial


def interaction_document(report: InteractionReport) -> dict[str, Json]:
    """What two adapters do to activations: by block and timestep (``"all"`` first), and the blame of each block."""
    return {
        "inputs": report.inputs,
        "latents": report.latents,
        "random_adapters": report.draws,
        "timesteps": list(report.timesteps),
        "places": [
            {"block": place.block, "timestep": place.timestep, **measures_document(place.measures)}
            for place in report.places
        ],
        "blame": blame_document(report.blame),
    }


def loss_document(report: LossReport) -> dict[str, Json]:
    """Losses on one adapter's own pictures, and by how much single blocks change them."""
    return {
        "adapter": report.adapter,
        "inputs": report.inputs,
        "base": _loss(report.base),
        "own": _loss(report.own),
        "both": _loss(report.both),
        "gain": _loss(report.gain),
        "harm": _loss(report.harm),
        "random_harm": list(report.random_harm),
        "gain_lost": report.gain_lost,
        "blame": {one.block: _loss(one.change) for one in report.blame},
        "need": {one.block: _loss(one.change) for one in report.need},
    }


def blame_document(blame: Sequence[BlockBlame]) -> list[Json]:
    """Blocks whose removal gives the other adapter something back, in shares of the adapters' effects."""
    return [{"adapter": one.adapter, "block": one.block, "gain": one.gain, "loss": one.loss} for one in blame]


def advice_document(blame: Sequence[BlockBlame], scheme: BlockScheme) -> dict[str, Json]:
    """What to turn down, in words and in every tool's notation."""
    steps = steps_of(blame)
    specs = specs_of(steps)
    return {
        "steps": [
            {"adapter": step.adapter, "block": step.block, "scale": step.scale, "words": step.words} for step in steps
        ],
        "specs": dict(specs),
        **_notations(specs, scheme),
    }


def activations_document(file: str, base: str, report: ActivationReport) -> dict[str, Json]:
    """The report of ``bwlab analyze activations``."""
    return {
        "schema": "bwlab.analyze.activations",
        "schema_version": SCHEMA_VERSION,
        "file": file,
        "base": base,
        "inputs": report.inputs,
        "latents": report.latents,
        "random_adapters": report.draws,
        "timesteps": list(report.timesteps),
        "changed_blocks": list(report.changed_blocks),
        "changes": [
            {"block": one.block, "timestep": one.timestep, **measures_document(one.measures)} for one in report.changes
        ],
    }


def fidelity_document(
    head: Mapping[str, Json],
    conditions: Sequence[ConditionScores],
    controls: Sequence[ConditionScores],
    profiles: Sequence[BlockProfile],
    leading: Sequence[str],
) -> dict[str, Json]:
    """The report of ``bwlab analyze fidelity``; intervals are 95 % bootstrap intervals over prompts and seeds."""
    return {
        "schema": "bwlab.analyze.fidelity",
        "schema_version": SCHEMA_VERSION,
        **head,
        "warning": few_pictures(conditions),
        "carriers": list(carriers(conditions, profiles, leading)) if profiles else [],
        "conditions": [_scores(one) for one in conditions],
        "controls": [_scores(one) for one in controls],
        "blocks": [
            {
                "adapter": one.adapter,
                "block": one.block,
                "knocked_in": _intervals(one.knocked_in),
                "knocked_out": _intervals(one.knocked_out),
            }
            for one in profiles
        ],
    }


def recommend_document(head: Mapping[str, Json], trials: Sequence[Trial], scheme: BlockScheme) -> dict[str, Json]:
    """The report of ``bwlab analyze recommend``: what was tried, the best first."""
    specs = {name: trials[0].composition.spec(name) for name in ("identity", "style")}
    return {
        "schema": "bwlab.analyze.recommend",
        "schema_version": SCHEMA_VERSION,
        **head,
        "specs": dict(specs),
        **_notations(specs, scheme),
        "standing": standing(trials),
        "warning": few_pictures([trial.scores for trial in trials]),
        "trials": [
            {
                "identity": trial.composition.spec("identity"),
                "style": trial.composition.spec("style"),
                "reason": trial.reason,
                "kept": {
                    "identity": trial.kept.identity,
                    "style": trial.kept.style,
                    "text": trial.kept.text,
                    "together": trial.kept.together,
                    "low": trial.together.low,
                    "high": trial.together.high,
                },
                "behind": asdict(trial.behind),
                "scores": _intervals(trial.scores.scores),
            }
            for trial in trials
        ],
    }


def _notations(specs: Mapping[str, str], scheme: BlockScheme) -> dict[str, Json]:
    """Each adapter's spec as other tools write it, and what is to be known of it, by adapter and tool."""
    found = {adapter: notations_of(spec, scheme) for adapter, spec in specs.items()}
    return {
        "notations": {adapter: {tool: one.text for tool, one in told.items()} for adapter, told in found.items()},
        "notes": {
            adapter: {tool: list(one.notes) for tool, one in told.items() if one.notes}
            for adapter, told in found.items()
        },
    }


def _scores(one: ConditionScores) -> dict[str, Json]:
    """Of a composition or a control; ``block`` where a single one is in or out."""
    condition = one.condition
    knocked = {} if condition is None or condition.block is None else {"block": condition.block[1]}
    return {"name": one.name, "pictures": len(one.images), **knocked, "scores": _intervals(one.scores)}


def _intervals(scores: Mapping[str, Interval]) -> dict[str, Json]:
    return {name: {"mean": one.mean, "low": one.low, "high": one.high} for name, one in scores.items()}


def _loss(loss: Loss) -> dict[str, Json]:
    return {"value": loss.value, "error": None if math.isnan(loss.error) else loss.error}
