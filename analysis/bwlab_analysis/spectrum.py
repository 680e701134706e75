"""The measures of one adapter's spectrum: effective rank and top-1 share."""

from __future__ import annotations

from collections.abc import Sequence

from bwlab.lowrank import FactoredMatrix
from bwlab_analysis.registry import BlockMetric, Measured, Parts


def _rank_parts(delta: FactoredMatrix) -> Parts | None:
    effective = delta.effective_rank()
    return None if effective is None else {"effective": effective, "rank": float(delta.inner_rank)}


def _rank_of_block(modules: Sequence[Parts]) -> Measured:
    effective = sum(parts["effective"] for parts in modules) / len(modules)
    rank = sum(parts["rank"] for parts in modules) / len(modules)
    return Measured(effective, details={"of_rank": rank})


def _top1_parts(delta: FactoredMatrix) -> Parts | None:
    share = delta.top1_share()
    if share is None:
        return None
    energy = delta.norm() ** 2
    return {"top": share * energy, "flat": energy / min(*delta.shape, delta.inner_rank), "energy": energy}


def _top1_of_block(modules: Sequence[Parts]) -> Measured:
    energy = sum(parts["energy"] for parts in modules)
    return Measured(
        sum(parts["top"] for parts in modules) / energy,
        details={"flat": sum(parts["flat"] for parts in modules) / energy},
    )


EFFECTIVE_RANK = BlockMetric(
    "effective_rank",
    "exp(entropy of s / sum(s)) of the singular values s, mean over modules: how many directions are used",
    _rank_parts,
    _rank_of_block,
)
TOP1_SHARE = BlockMetric(
    "top1_share",
    "share of the energy in each module's first direction: near 1 is a spike, which adapters stack badly with",
    _top1_parts,
    _top1_of_block,
)
