"""A study's results, read from one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bwlab_analysis.study.expand import Pair
from bwlab_analysis.study.jobs import Json
from bwlab_analysis.study.plan import CONTROLS, SweepPlan, swept_name
from bwlab_analysis.study.study import Study

FILE = "results.sqlite"
Floats: TypeAlias = npt.NDArray[np.float64]
Where: TypeAlias = tuple[str, str, str]
"""Composition, identity, style."""

DIGITS = 6
BLOCKS = ", mean of blocks"

TABLES = """
create table about (key text primary key, value text not null);
create table alone (composition text primary key, identity_alone text not null, style_alone text not null);
create table scores (composition text, identity text, style text, measure text, prompts integer, "values" text,
    primary key (composition, identity, style, measure));
create table measures (composition text, identity text, style text, measure text, value real, random real,
    random_sd real, primary key (composition, identity, style, measure));
create table blame (composition text, identity text, style text, "by" text, adapter text, block text, gain real,
    loss real, primary key (composition, identity, style, "by", adapter, block));
create table recommended (composition text, identity text, style text, spec_identity text, spec_style text,
    tried integer, measure text, "values" text, primary key (composition, identity, style, measure));
create table jobs (kind text, name text, key text primary key, cpu_seconds real);
"""


@dataclass(frozen=True)
class Blamed:
    """What one way of blaming says of one block: see `bwlab_analysis.activations.losses.BlockBlame`."""

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
        scores: (composition, identity, style) -> measure -> `(prompts, seeds)` values.
        measures: (composition, identity, style) -> measure -> value.
        blame: (composition, identity, style) -> way of blaming -> blocks.
        recommended: (composition, identity, style) -> measure -> `(1, seeds)` scores of what was recommended; empty
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
        """Return `(identities, styles, prompts, seeds)` scores; KeyError if they were not taken.

        Args:
            composition: or a control, whose pictures count as one, `(identities, styles, 1, 1)`.
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
    """Return what `results.sqlite` holds; FileNotFoundError if there is none."""
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


def write_results(study: Study, folder: Path) -> Path:
    """Gather the results of all finished jobs in `results.sqlite`, replacing the last one, and return its path."""
    path = folder / FILE
    new = path.with_suffix(".partial")
    new.unlink(missing_ok=True)
    with closing(sqlite3.connect(new)) as database, database:
        database.executescript(TABLES)
        database.executemany("insert into about values (?, ?)", _about(study))
        alone = ((name, *both) for name, both in study.work.alone.items())
        database.executemany("insert into alone values (?, ?, ?)", alone)
        database.executemany("insert into scores values (?, ?, ?, ?, ?, ?)", _score_rows(study))
        database.executemany("insert into measures values (?, ?, ?, ?, ?, ?, ?)", _measure_rows(study))
        database.executemany("insert into blame values (?, ?, ?, ?, ?, ?, ?, ?)", _blame_rows(study))
        database.executemany("insert into recommended values (?, ?, ?, ?, ?, ?, ?, ?)", _recommended_rows(study))
        database.executemany("insert into jobs values (?, ?, ?, ?)", _job_rows(study))
    new.replace(path)
    return path


def _about(study: Study) -> Iterable[tuple[str, str]]:
    from bwlab._version import __version__

    yield "plan", json.dumps(asdict(study.plan), default=str)
    yield "bwlab", json.dumps(__version__)


def _finished(study: Study, pairs: Iterable[Pair]) -> Iterable[tuple[Where, dict[str, Any]]]:
    for pair in pairs:
        if pair.job.done(study.place.out):
            yield (pair.composition, pair.identity, pair.style), pair.job.result(study.place.out)


def _score_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for where, result in _finished(study, study.work.scores):
        for measure, values in result["values"].items():
            prompts = max(1, len(values) // result["pictures_a_prompt"])
            yield (*where, measure, prompts, json.dumps([round(value, DIGITS) for value in values]))


def _measure_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for where, result in _finished(study, study.work.measures):
        for name, measured in measures_of(result).items():
            yield (*where, name, *measured)


def _blame_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for where, result in _finished(study, study.work.measures):
        for way, blocks in result.get("blame", {}).items():
            for one in blocks:
                yield (*where, way, one["adapter"], one["block"], one["gain"], one["loss"])


def _recommended_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for where, result in _finished(study, study.work.recommended):
        head = (*where, *result["specs"], result["tried"])
        for measure, values in (result["values"] or {"": []}).items():
            yield (*head, measure, json.dumps([round(value, DIGITS) for value in values]))


def _job_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for job in study.jobs():
        if job.done(study.place.out):
            yield job.kind, job.name, job.key, job.result(study.place.out)["cpu_seconds"]


def measures_of(result: Mapping[str, Any]) -> dict[str, tuple[float, float | None, float | None]]:
    """Return a measurement's numbers by name: (value, of random adapters, their standard deviation)."""
    told = {f"weights {name}": one for name, one in result["weights"].items()}
    for inputs in ("pictures", "prompts"):
        told |= {f"{inputs} {name}": one for name, one in result[inputs]["prediction"].items()}
    found = {name: (one["value"], one.get("random"), one.get("random_sd")) for name, one in told.items() if one}
    for inputs in ("pictures", "prompts"):
        means = {f"{inputs} {name}{BLOCKS}": value for name, value in result[inputs]["blocks"].items()}
        found |= {name: (value, None, None) for name, value in means.items() if value is not None}
    plain = {name: value for name, (value, _, _) in found.items()} | _of_losses(result["losses"])
    return {name: (value, None, None) for name, value in {**plain, **_of_both(plain)}.items()} | found


def _of_losses(losses: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return what the other adapter does to the loss on each one's pictures, and as a share of what it gained."""
    found = {}
    for kind, one in losses.items():
        harm, gain = one["both"] - one["own"], one["base"] - one["own"]
        found[f"loss harm, {kind}"] = harm
        if gain > 0:
            found[f"loss gain lost, {kind}"] = harm / gain
    return found


def _of_both(found: Mapping[str, float]) -> dict[str, float]:
    """Means of the measures that each of the two adapters has."""
    pairs = {
        "loss harm": ("loss harm, identity", "loss harm, style"),
        "loss gain lost": ("loss gain lost, identity", "loss gain lost, style"),
    }
    for start, end in (("pictures", ""), ("prompts", ""), ("pictures", BLOCKS), ("prompts", BLOCKS)):
        for name in ("retention", "effect"):
            pairs[f"{start} {name}{end}"] = (f"{start} {name}_a{end}", f"{start} {name}_b{end}")
    return {name: (found[a] + found[b]) / 2 for name, (a, b) in pairs.items() if a in found and b in found}
