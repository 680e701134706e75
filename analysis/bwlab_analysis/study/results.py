"""A study's results, read from one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bwlab_analysis.study.expansion import CONTROLS
from bwlab_analysis.study.jobs import Json
from bwlab_analysis.study.plan import SweepPlan
from bwlab_analysis.study.sweeps import swept_name

FILE = "results.sqlite"
Floats: TypeAlias = npt.NDArray[np.float64]
Where: TypeAlias = tuple[str, str, str]
"""Composition, identity, style."""


@dataclass(frozen=True)
class Blamed:
    """What one way of blaming says of one block: see `bwlab_analysis.function.blame.BlockBlame`."""

    adapter: str
    block: str
    gain: float
    loss: float | None


@dataclass(frozen=True, eq=False)
class Results:
    """All that a study found.

    Attributes:
        about: the plan as JSON, and what ran it.
        alone: measured composition -> (composition of its identity's adapter alone, of its style's).
        scores: (composition, identity, style) -> measure -> ``(prompts, seeds)`` values.
        measures: (composition, identity, style) -> measure -> value.
        blame: (composition, identity, style) -> way of blaming -> blocks.
        recommended: (composition, identity, style) -> measure -> ``(1, seeds)`` scores of what was recommended; empty
            where nothing could be.
        cpu_seconds: kind of job -> CPU seconds in all.
    """

    about: Mapping[str, Json]
    alone: Mapping[str, tuple[str, str]]
    scores: Mapping[Where, Mapping[str, Floats]]
    measures: Mapping[Where, Mapping[str, float]]
    blame: Mapping[Where, Mapping[str, tuple[Blamed, ...]]]
    recommended: Mapping[Where, Mapping[str, Floats]]
    cpu_seconds: Mapping[str, float]

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """The identities, in the plan's order."""
        return tuple(dict.fromkeys(identity for _, identity, _ in self.scores))

    @cached_property
    def styles(self) -> tuple[str, ...]:
        """The styles, in the plan's order."""
        return tuple(dict.fromkeys(style for _, _, style in self.scores))

    @cached_property
    def compositions(self) -> tuple[str, ...]:
        """What was scored, in the plan's order."""
        return tuple(dict.fromkeys(composition for composition, _, _ in self.scores))

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """The plan as JSON."""
        plan: Any = self.about["plan"]
        return dict(plan)

    @cached_property
    def sweeps(self) -> tuple[tuple[SweepPlan, Mapping[str, str]], ...]:
        """Each sweep with its compositions by block."""
        sweeps = [SweepPlan(**told) for told in self.plan["sweeps"].values()]
        return tuple((sweep, self._of_sweep(swept_name(sweep, ""))) for sweep in sweeps)

    def _of_sweep(self, start: str) -> dict[str, str]:
        return {name.removeprefix(start): name for name in self.compositions if name.startswith(start)}

    @cached_property
    def swept(self) -> frozenset[str]:
        """The compositions that a sweep stands for."""
        return frozenset(name for _, names in self.sweeps for name in names.values())

    def values(self, composition: str, measure: str, prompts: int | None = None) -> Floats:
        """Return ``(identities, styles, prompts, seeds)`` scores; KeyError if they were not taken.

        Args:
            composition: or a control, whose pictures count as one, ``(identities, styles, 1, 1)``.
            measure: a score's name.
            prompts: only so many, the first; None: all.
        """
        found = [
            [self.scores[composition, identity, style][measure][:prompts] for style in self.styles]
            for identity in self.identities
        ]
        if composition in CONTROLS:
            # Their pictures are not of seeds, and one subject may have more than another.
            found = [[np.mean(one, keepdims=True) for one in row] for row in found]
        return np.asarray(found, np.float64)

    def scored(self, composition: str, measure: str) -> bool:
        """Return whether a composition has a score for every pair."""
        pairs = ((composition, identity, style) for identity in self.identities for style in self.styles)
        return all(measure in self.scores.get(pair, {}) for pair in pairs)


def read_results(path: Path) -> Results:
    """Return what ``results.sqlite`` holds; FileNotFoundError if there is none."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        scores: dict[Where, dict[str, Floats]] = {}
        for *where, measure, prompts, values in database.execute("select * from scores order by rowid"):
            scores.setdefault(_where(where), {})[measure] = np.reshape(json.loads(values), (prompts, -1))
        measures: dict[Where, dict[str, float]] = {}
        for *where, measure, value, _, _ in database.execute("select * from measures order by rowid"):
            found = measures.setdefault(_where(where), {})
            if value is not None:  # a number that is none is NULL to SQLite
                found[measure] = value
        blame: dict[Where, dict[str, tuple[Blamed, ...]]] = {}
        for *where, way, adapter, block, gain, loss in database.execute("select * from blame order by rowid"):
            ways = blame.setdefault(_where(where), {})
            ways[way] = (*ways.get(way, ()), Blamed(adapter, block, gain, loss))
        recommended: dict[Where, dict[str, Floats]] = {}
        query = 'select composition, identity, style, measure, "values" from recommended order by rowid'
        for *where, measure, values in database.execute(query):
            best = recommended.setdefault(_where(where), {})
            if measure:
                best[measure] = np.reshape(json.loads(values), (1, -1))
        return Results(
            {key: json.loads(value) for key, value in database.execute("select key, value from about")},
            {name: (a, b) for name, a, b in database.execute("select * from alone")},
            scores,
            measures,
            blame,
            recommended,
            dict(database.execute("select kind, sum(cpu_seconds) from jobs group by kind")),
        )


def _where(columns: list[str]) -> Where:
    composition, identity, style = columns
    return composition, identity, style
