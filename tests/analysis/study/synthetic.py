"""Results of studies that nobody ran, with known shares."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bwlab_analysis.study.plan import TRUE
from bwlab_analysis.study.results import TABLES, Blamed, Floats, PairKey, Results

IDENTITIES = ("owl", "crab", "bear", "duck", "frog")
STYLES = ("ink", "monotone", "emojione")
PROMPTS, SEEDS = 2, 3
UNIT = 0.4
PAIRS = tuple(product(IDENTITIES, STYLES))


@dataclass(frozen=True)
class Kept:
    """A composition's shares.

    Attributes:
        identity, style: a number, or an array that fits `(identities, styles, prompts, seeds)`.
        prompts: that it was painted for.

    """

    identity: float | Floats
    style: float | Floats
    prompts: int = PROMPTS


@dataclass(frozen=True)
class Told:
    """What else the results hold."""

    plan: Mapping[str, Any] = field(default_factory=dict)
    alone: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    measures: Mapping[PairKey, Mapping[str, float]] = field(default_factory=dict)
    blame: Mapping[PairKey, Mapping[str, tuple[Blamed, ...]]] = field(default_factory=dict)
    recommended: Mapping[PairKey, Mapping[str, Floats]] = field(default_factory=dict)


def zero() -> Floats:
    """Return `(identities, styles, prompts, seeds)` scores of the base, all different, as its seeds differ."""
    spread = np.random.default_rng(1).uniform(0.1, 0.4, (len(IDENTITIES), len(STYLES), PROMPTS, 1))
    seeds = np.random.default_rng(2).normal(0, 0.02, (*spread.shape[:3], SEEDS))
    return np.asarray(spread + seeds - seeds.mean(3, keepdims=True), np.float64)


def made(compositions: Mapping[str, Kept], told: Told = Told(), true: bool = True) -> Results:
    """Return results in which each composition has the given shares, beside the base and the true images.

    Args:
        compositions: their shares.
        told: what else there is.
        true: whether the true images are known; else the learned images are one, of 4 and 7 for each.

    """
    base = zero()
    scores: dict[PairKey, dict[str, Floats]] = {}
    kept = {"base": Kept((base - base.mean(3, keepdims=True)) / UNIT, (base - base.mean(3, keepdims=True)) / UNIT)}
    for name, one in {**kept, **compositions}.items():
        shares = {kind: np.broadcast_to(getattr(one, kind), base.shape) for kind in ("identity", "style")}
        for (i, identity), (s, style) in product(enumerate(IDENTITIES), enumerate(STYLES)):
            found = {kind: (base.mean(3, keepdims=True) + UNIT * shares[kind])[i, s] for kind in shares}
            scores[name, identity, style] = {kind: table[: one.prompts] for kind, table in found.items()}
            scores[name, identity, style]["text"] = np.full((one.prompts, SEEDS), 0.25)
            if true:
                scores[name, identity, style]["embedding_distance"] = np.full((1, SEEDS), 0.125)
    for (i, identity), (s, style) in product(enumerate(IDENTITIES), enumerate(STYLES)):
        top = base[i, s, :1].mean(1, keepdims=True) + UNIT
        controls = {TRUE: 1} if true else {"identity's images": 4 + i, "style's images": 7}
        for name, count in controls.items():
            scores[name, identity, style] = {kind: np.tile(top, (1, count)) for kind in ("identity", "style", "text")}
    plan = {"title": "A study of nothing", "claims": {}, "sweeps": {}, "adapters": {}, **told.plan}
    about: dict[str, Any] = {"plan": plan, "bwlab": "0"}
    return Results(
        about, told.alone, scores, told.measures, told.blame, told.recommended, {"train": 90.0, "generate": 30.0}
    )


def save(results: Results, path: Path) -> Path:
    """Write results as a study does, and return the path."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(TABLES)
        database.executemany("insert into about values (?, ?)", [(k, json.dumps(v)) for k, v in results.about.items()])
        database.executemany(
            "insert into alone values (?, ?, ?)", [(name, *both) for name, both in results.alone.items()]
        )
        for where, found in results.scores.items():
            rows = [(*where, name, len(table), json.dumps(table.ravel().tolist())) for name, table in found.items()]
            database.executemany("insert into scores values (?, ?, ?, ?, ?, ?)", rows)
        for where, values in results.measures.items():
            measured = [(*where, name, value, None, None) for name, value in values.items()]
            database.executemany("insert into measures values (?, ?, ?, ?, ?, ?, ?)", measured)
        for where, ways in results.blame.items():
            blamed = [(*where, w, b.adapter, b.block, b.gain, b.loss) for w, blocks in ways.items() for b in blocks]
            database.executemany("insert into blame values (?, ?, ?, ?, ?, ?, ?, ?)", blamed)
        for where, best in results.recommended.items():
            row = [(*where, "1", "1", 1, name, json.dumps(table.ravel().tolist())) for name, table in best.items()]
            database.executemany(
                "insert into recommended values (?, ?, ?, ?, ?, ?, ?, ?)", row or [(*where, "1", "1", 0, "", "[]")]
            )
        jobs = [(kind, kind, kind, seconds) for kind, seconds in results.cpu_seconds.items()]
        database.executemany("insert into jobs values (?, ?, ?, ?)", jobs)
    return path
