"""Results as JSON documents: the numbers of the tables, unrounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab_analysis.measures import (
    IDENTITY,
    SCHEMA_VERSION,
    STYLE,
    BlockMetric,
    ConflictMeasure,
    Json,
    Measured,
    MeasureError,
)
from bwlab_analysis.report.advice import commands_to_copy, notations_of
from bwlab_analysis.report.answer import answer_lines, conflict_score, conflict_score_text, loss_warnings
from bwlab_analysis.report.verdict import (
    carrier_lines,
    few_images_warning,
    recommendation_text,
    shares_initialisation,
    weights_verdict,
)
from bwlab_analysis.weights.adapter_weights import LeftOut
from bwlab_analysis.weights.conflict import ConflictReport, GroupConflict
from bwlab_analysis.weights.norms import GroupNorms, NormsReport

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme
    from bwlab_analysis.activations.changes import ActivationReport
    from bwlab_analysis.activations.interaction import InteractionReport
    from bwlab_analysis.activations.losses import Loss, LossReport
    from bwlab_analysis.activations.pair import Compared, MeasuredConflict, PairInBase
    from bwlab_analysis.fidelity.recommend import Recommendation, Shares
    from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores, Judge, Sampling
    from bwlab_analysis.measures import BlockBlame, Interval


def norms_document(report: NormsReport) -> dict[str, Json]:
    """Return the report of `bwlab analyze norms`; shares are 0..1, and norms are of the scaled delta."""
    return {
        "schema": "bwlab.analyze.norms",
        "schema_version": SCHEMA_VERSION,
        "file": str(report.file),
        "base": report.base,
        "scheme": report.scheme,
        "metrics": _summaries(report.metrics),
        "blocks": [_norms(group) for group in report.blocks],
        "kinds": [_norms(group) for group in report.kinds],
        "cells": [_norms(group) for group in report.cells],
        "modules": [_norms(group) for group in report.modules],
        "total": _norms(report.total),
        "empty_blocks": list(report.empty_blocks),
        "left_out": _left_out(report.left_out),
        "errors": _errors(report.errors),
    }


def conflicts_document(
    names: Mapping[Path, str], pairs: Sequence[Compared], together: Mapping[Path, LossReport]
) -> dict[str, Json]:
    """Return the report of `bwlab analyze conflict` for more than two adapters, with a document for every pair."""
    documents: list[Json] = [conflict_document(report, pair) for report, pair in pairs]
    return {
        "schema": "bwlab.analyze.conflicts",
        "schema_version": SCHEMA_VERSION,
        "names": {name: str(file) for file, name in names.items()},
        "pairs": documents,
        "together": {names[file]: loss_document(report) for file, report in together.items()},
    }


def conflict_document(report: ConflictReport, pair: PairInBase | None = None) -> dict[str, Json]:
    """Return the report of `bwlab analyze conflict`; shares are 0..1, angles degrees, overlaps multiples of chance."""
    return {
        "schema": "bwlab.analyze.conflict",
        "schema_version": SCHEMA_VERSION,
        "a": str(report.file_a),
        "b": str(report.file_b),
        "name_a": report.names[0],
        "name_b": report.names[1],
        "scheme": report.scheme,
        "measures": _summaries(report.measures),
        "blocks": [_conflict(group) for group in report.blocks],
        "cells": [_conflict(group) for group in report.cells],
        "total": _conflict(report.total),
        "shared_share_a": report.shared_share_a,
        "shared_share_b": report.shared_share_b,
        "shared_initialisation": shares_initialisation(report.total),
        "verdict": list(weights_verdict(report)),
        "left_out_a": _left_out(report.left_out_a),
        "left_out_b": _left_out(report.left_out_b),
        "errors": _errors(report.errors),
        **({} if pair is None else base_conflict_document(report, pair)),
    }


def _norms(group: GroupNorms) -> dict[str, Json]:
    return {
        "name": group.name,
        "modules": group.modules,
        "rank_min": group.ranks[0],
        "rank_max": group.ranks[1],
        "norm": group.norm,
        "energy_share": group.share,
        "base_norm": group.base_norm,
        "relative": group.relative,
        **measures_document(group.measures),
    }


def _conflict(group: GroupConflict) -> dict[str, Json]:
    return {
        "name": group.name,
        "modules_a": group.modules_a,
        "modules_b": group.modules_b,
        "shared": group.shared,
        "disjoint": group.disjoint,
        "energy_share_a": group.share_a,
        "energy_share_b": group.share_b,
        "joint_energy_share": group.joint_share,
        **measures_document(group.measures),
    }


def measures_document(measures: Mapping[str, Measured | None]) -> dict[str, Json]:
    """Return measures by name, each with values to compare it with; null where there is no answer."""
    return {
        name: None if measured is None or measured.error else _measured(measured) for name, measured in measures.items()
    }


def _errors(errors: Iterable[MeasureError]) -> list[Json]:
    return [asdict(error) for error in errors]


def _measured(measured: Measured) -> dict[str, Json]:
    scale = {"random": measured.random, "random_sd": measured.random_sd}
    known = {name: value for name, value in scale.items() if value is not None}
    return {"value": measured.value, **known, **measured.details}


def _summaries(measures: Iterable[BlockMetric | ConflictMeasure]) -> dict[str, Json]:
    return {measure.name: measure.summary for measure in measures}


def _left_out(parts: Iterable[LeftOut]) -> list[Json]:
    return [{"reason": part.reason, "keys": list(part.keys)} for part in parts]


def base_conflict_document(report: ConflictReport, pair: PairInBase) -> dict[str, Json]:
    """Return the effects of two adapters in a base as JSON: the answer, `activations`, `losses`, `commands`."""
    names = dict(zip("ab", report.names, strict=True))
    return {
        "answer": list(answer_lines(report.names, pair)),
        "measured": None if pair.measured is None else measured_document(pair.measured),
        "activations": interaction_document(pair.interaction),
        "losses": [loss_document(losses) for losses in pair.losses],
        "conflict_score": conflict_score(pair.losses),
        "conflict_score_text": conflict_score_text(pair.losses, report.names),
        "warnings": list(loss_warnings(pair.losses, names)),
        "commands": list(commands_to_copy(report, pair)),
    }


def measured_document(measured: MeasuredConflict) -> dict[str, Json]:
    """Return what two adapters lose beside each other in generated images; shares and mean scores."""
    return {
        "prompts": list(measured.prompts),
        "seeds": measured.seeds,
        "steps": measured.steps,
        "cfg": measured.cfg,
        "costs": [asdict(cost) for cost in measured.costs],
    }


def interaction_document(report: InteractionReport) -> dict[str, Json]:
    """Return the effects of two adapters on activations by block and timestep (`"all"` first), and the blame."""
    return {
        "inputs": report.inputs,
        "latents": report.latents,
        "random_adapters": report.draws,
        "timesteps": list(report.timesteps),
        "effects": [
            {"block": effects.block, "timestep": effects.timestep, **measures_document(effects.measures)}
            for effects in report.effects
        ],
        "blame": blame_document(report.blame),
    }


def loss_document(report: LossReport) -> dict[str, Json]:
    """Return the losses on one adapter's training images, and the changes of the losses by single blocks."""
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
        "kept": None if report.kept is None else _loss(report.kept),
        "random_kept": list(report.random_kept),
        "blame": {block.block: _loss(block.change) for block in report.blame},
        "need": {block.block: _loss(block.change) for block in report.need},
    }


def blame_document(blame: Sequence[BlockBlame]) -> list[Json]:
    """Return the gain of the other adapter and the cost to its own with each block off, as shares of their effects."""
    return [asdict(block) for block in blame]


def activations_document(file: str, base: str, report: ActivationReport) -> dict[str, Json]:
    """Return the report of `bwlab analyze activations`."""
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
            {"block": change.block, "timestep": change.timestep, **measures_document(change.measures)}
            for change in report.changes
        ],
    }


def fidelity_document(
    head: Mapping[str, Json],
    conditions: Sequence[ConditionScores],
    controls: Sequence[ConditionScores],
    profiles: Sequence[BlockProfile],
    judge: Judge,
) -> dict[str, Json]:
    """Return the report of `bwlab analyze fidelity`; intervals are 95 % bootstrap intervals over prompts and seeds."""
    failed = [error.name for error in judge.errors]
    return {
        "schema": "bwlab.analyze.fidelity",
        "schema_version": SCHEMA_VERSION,
        **head,
        "warning": few_images_warning(len(conditions[0].images)),
        "carriers": list(carrier_lines(conditions, profiles, judge.leading)) if profiles else [],
        "errors": _errors(judge.errors),
        "conditions": [_scores(scores, failed) for scores in conditions],
        "controls": [_scores(scores, failed) for scores in controls],
        "blocks": [
            {
                "adapter": profile.adapter,
                "block": profile.block,
                "knocked_in": _intervals(profile.knocked_in, failed),
                "knocked_out": _intervals(profile.knocked_out, failed),
            }
            for profile in profiles
        ],
    }


def recommend_document(
    head: Mapping[str, Json],
    recommendation: Recommendation,
    scheme: BlockScheme,
    command: str,
    errors: Sequence[MeasureError] = (),
) -> dict[str, Json]:
    """Return the report of `bwlab analyze recommend`: the composition to use, its proof, and all that were tried."""
    failed = [error.name for error in errors]
    specs = {name: recommendation.composition.spec(name) for name in (IDENTITY, STYLE)}
    proof = recommendation.proof
    return {
        "schema": "bwlab.analyze.recommend",
        "schema_version": SCHEMA_VERSION,
        **head,
        "specs": dict(specs),
        "schedules": dict(zip((IDENTITY, STYLE), recommendation.composition.schedules, strict=True)),
        **_notations(specs, scheme),
        "command": command,
        "recommended": recommendation.recommended,
        "verdict": recommendation_text(recommendation),
        "search": {
            "budget": recommendation.budget,
            "prompts": list[Json](recommendation.searched.prompts),
            "seeds": list[Json](recommendation.searched.seeds),
            "steps": recommendation.searched.steps,
        },
        "proof": None
        if proof is None
        else {
            "images": len(proof.best.images),
            "new_prompts": proof.new_prompts,
            "rounds": proof.rounds,
            "gain": asdict(proof.gain),
            "whole": {**_shares(proof.whole_shares), "scores": _intervals(proof.whole.scores, failed)},
            "best": {**_shares(proof.best_shares), "scores": _intervals(proof.best.scores, failed)},
        },
        "errors": _errors(errors),
        "trials": [
            {
                "identity": trial.composition.spec(IDENTITY),
                "style": trial.composition.spec(STYLE),
                "schedules": list[Json](trial.composition.schedules),
                "reason": trial.reason,
                "images": len(trial.scores.images),
                "shares": _shares(trial.shares),
                "balance": asdict(trial.balance),
                "scores": _intervals(trial.scores.scores, failed),
            }
            for trial in recommendation.trials
        ],
    }


def _shares(shares: Shares) -> dict[str, Json]:
    return {"identity": shares.identity, "style": shares.style, "text": shares.text, "balance": shares.balance}


def _notations(specs: Mapping[str, str], scheme: BlockScheme) -> dict[str, Json]:
    """Return each spec in the notations of other tools, and notes on how these apply it, by adapter and tool."""
    by_adapter = {adapter: notations_of(spec, scheme) for adapter, spec in specs.items()}
    return {
        "notations": {
            adapter: {tool: translation.text for tool, translation in translations.items()}
            for adapter, translations in by_adapter.items()
        },
        "notes": {
            adapter: {tool: list(translation.notes) for tool, translation in translations.items() if translation.notes}
            for adapter, translations in by_adapter.items()
        },
    }


def _scores(scores: ConditionScores, failed: Sequence[str]) -> dict[str, Json]:
    """Return the scores of a composition or a control, with `block` if a single block is knocked in or out."""
    condition = scores.condition
    knocked = {} if condition is None or condition.block is None else {"block": condition.block[1]}
    return {"name": scores.name, "images": len(scores.images), **knocked, "scores": _intervals(scores.scores, failed)}


def _intervals(scores: Mapping[str, Interval], failed: Iterable[str]) -> dict[str, Json]:
    """Return the intervals by scorer, and null for scorers that failed."""
    return {**dict.fromkeys(failed), **{name: asdict(interval) for name, interval in scores.items()}}


def _loss(loss: Loss) -> dict[str, Json]:
    return {"value": loss.value, "error": None if math.isnan(loss.error) else loss.error}


def fidelity_settings(
    base: str, files: Sequence[Path], judge: Judge, sampling: Sampling, clip_skip: int
) -> dict[str, Json]:
    """Return the settings that documents of fidelity begin with."""
    return {
        "base": base,
        "identity": str(files[0]),
        "style": str(files[1]),
        "prompts": list(sampling.prompts),
        "seeds": list(sampling.seeds),
        "steps": sampling.steps,
        "cfg": sampling.cfg,
        "clip_skip": clip_skip,
        "scorers": {scorer.name: scorer.summary for scorer in judge.scorers},
        "harmonic_of": list(judge.leading),
        "references": {"identity": len(judge.references.identity), "style": len(judge.references.style)},
    }
