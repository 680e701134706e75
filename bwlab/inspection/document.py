"""The report of `bwlab inspect` as a JSON document; docs/formats.md describes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TypeAlias

from bwlab.inspection.report import BlockSummary, Inspection

SCHEMA_VERSION = 1

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


def document(inspections: Iterable[Inspection]) -> dict[str, Json]:
    """One document for all files."""
    return {
        "schema": "bwlab.inspect",
        "schema_version": SCHEMA_VERSION,
        "files": [_file(inspection) for inspection in inspections],
    }


def _file(report: Inspection) -> dict[str, Json]:
    return {
        "file": str(report.path),
        "bytes": report.size,
        "dialect": report.dialect,
        "architecture": report.architecture,
        "scheme": report.scheme,
        "total": _block(report.total),
        "blocks": [_block(block) for block in report.blocks],
        "empty_blocks": list(report.empty_blocks),
        "text_encoder_modules": sum(block.modules for block in report.blocks if block.name == "te"),
        "dtypes": dict(report.dtypes),
        "embeddings": {token: list(shape) for token, shape in report.embeddings.items()},
        "top1_share": report.top1_share,
        "training": dict(report.training),
        "findings": [{**asdict(finding), "paths": list(finding.paths)} for finding in report.findings],
        "unknown": list(report.unknown),
        "prompt_tag": report.prompt_tag,
        "metadata": dict(report.metadata),
    }


def _block(block: BlockSummary) -> dict[str, Json]:
    """Alphas and ranks as lists of pairs: JSON has no keys that are numbers or null, and an alpha may be NaN."""
    return {
        "name": block.name,
        "modules": block.modules,
        "algorithms": dict(block.algorithms),
        "ranks": [{"rank": rank, "modules": count} for rank, count in block.ranks.items()],
        "alphas": [{"alpha": _number(alpha), "modules": count} for alpha, count in block.alphas.items()],
        "energy_share": block.energy_share,
    }


def _number(alpha: float | None) -> float | str | None:
    """Itself, or its name where JSON has no such number."""
    return alpha if alpha is None or abs(alpha) < float("inf") else str(alpha)
