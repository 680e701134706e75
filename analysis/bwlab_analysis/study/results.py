"""The results of a study, stored in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bwlab.errors import BrokenFileError, first_line
from bwlab.files import write_atomically
from bwlab.text import parse_json
from bwlab_analysis.study import GENERATE
from bwlab_analysis.study.expand import PairJob
from bwlab_analysis.study.jobs import Json
from bwlab_analysis.study.plan import CONTROLS, SweepPlan, swept_name
from bwlab_analysis.study.study import Study

RESULTS = "results.sqlite"
DIGITS = 6
"""Decimals of stored scores."""
BLOCK_MEAN = ", mean of blocks"
SOURCES = ("images", "prompts")
"""The sources of latents on which a pair's activations are measured."""

VERSION = 2
OLD_WORDS = {"paint": GENERATE, "picture": "image"}
"""Words in names that files of version 1 have, which had no version yet, and the words of today."""

Floats: TypeAlias = npt.NDArray[np.float64]
PairKey: TypeAlias = tuple[str, str, str]
"""Composition, identity, style."""

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
    """The blame of one block by one way of blaming: see `bwlab_analysis.measures.BlockBlame`."""

    adapter: str
    block: str
    gain: float
    loss: float | None


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a study.

    Attributes:
        about: the plan as JSON, the version of bwlab that ran it, and the version of the file.
        alone: measured composition -> (composition of its identity's adapter alone, of its style's).
        scores: (composition, identity, style) -> measure -> `(prompts, seeds)` values.
        measures: (composition, identity, style) -> measure -> value.
        blame: (composition, identity, style) -> way of blaming -> blocks.
        recommended: (composition, identity, style) -> measure -> `(1, seeds)` scores of the recommended scales; empty
            where nothing could be recommended.
        cpu_seconds: kind of job -> CPU seconds of all its jobs.

    """

    about: Mapping[str, Json]
    alone: Mapping[str, tuple[str, str]]
    scores: Mapping[PairKey, Mapping[str, Floats]]
    measures: Mapping[PairKey, Mapping[str, float]]
    blame: Mapping[PairKey, Mapping[str, tuple[Blamed, ...]]]
    recommended: Mapping[PairKey, Mapping[str, Floats]]
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
        """The compositions and controls that were scored, in the plan's order."""
        return tuple(dict.fromkeys(composition for composition, _, _ in self.scores))

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """The plan as JSON."""
        plan: Any = self.about["plan"]
        return dict(plan)

    @cached_property
    def sweeps(self) -> tuple[tuple[SweepPlan, Mapping[str, str]], ...]:
        """Each sweep with its compositions by block."""
        sweeps = [SweepPlan(**sweep) for sweep in self.plan["sweeps"].values()]
        return tuple((sweep, self._of_sweep(swept_name(sweep, ""))) for sweep in sweeps)

    def _of_sweep(self, start: str) -> dict[str, str]:
        return {name.removeprefix(start): name for name in self.compositions if name.startswith(start)}

    @cached_property
    def swept(self) -> frozenset[str]:
        """The compositions of sweeps."""
        return frozenset(name for _, names in self.sweeps for name in names.values())

    def values(self, composition: str, measure: str, prompts: int | None = None) -> Floats:
        """Return `(identities, styles, prompts, seeds)` scores; KeyError if they were not taken.

        Args:
            composition: name of a composition or control. The images of a control count as one, which gives
                `(identities, styles, 1, 1)`.
            measure: name of a score.
            prompts: number of the first prompts to return; None: all.

        """
        tables = [
            [self.scores[composition, identity, style][measure][:prompts] for style in self.styles]
            for identity in self.identities
        ]
        if composition in CONTROLS:
            # Images of controls have no seeds, and subjects may differ in their number.
            tables = [[np.mean(table, keepdims=True) for table in row] for row in tables]
        return np.asarray(tables, np.float64)

    def scored(self, composition: str, measure: str) -> bool:
        """Return whether a composition has a score for every pair."""
        pairs = ((composition, identity, style) for identity in self.identities for style in self.styles)
        return all(measure in self.scores.get(pair, {}) for pair in pairs)


def read_results(path: Path) -> Results:
    """Return the results in a SQLite file; FileNotFoundError if there is none, BrokenFileError if it is damaged."""
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        return _read(path)
    except (sqlite3.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        fix = "Run the study again: the file is made again from the finished jobs"
        raise BrokenFileError(f"results {path}", f"not a whole file of results ({first_line(error)})", fix) from error


def _read(path: Path) -> Results:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        about = {key: json.loads(value) for key, value in database.execute("select key, value from about")}
        stored = _Stored(database, OLD_WORDS if about.get("version", 1) < VERSION else {})
        return Results(
            about,
            {name: (a, b) for name, a, b in database.execute("select * from alone")},
            stored.scores(),
            stored.measures(),
            stored.blame(),
            stored.recommended(),
            stored.cpu_seconds(),
        )


def _numbers(text: str) -> Floats:
    """Return the scores in a JSON list; ValueError unless all are finite numbers."""
    return np.asarray(parse_json(text), np.float64)


class _Stored:
    """The tables of a database.

    Args:
        database: the open database.
        words: words in names and their replacements.

    """

    def __init__(self, database: sqlite3.Connection, words: Mapping[str, str]) -> None:
        self.database, self.words = database, words

    def scores(self) -> dict[PairKey, dict[str, Floats]]:
        scores: dict[PairKey, dict[str, Floats]] = {}
        for pair, (measure, prompts, values) in self._rows("scores", 'measure, prompts, "values"'):
            scores.setdefault(pair, {})[measure] = _numbers(values).reshape(prompts, -1)
        return scores

    def measures(self) -> dict[PairKey, dict[str, float]]:
        measures: dict[PairKey, dict[str, float]] = {}
        for pair, (measure, value) in self._rows("measures", "measure, value"):
            of_pair = measures.setdefault(pair, {})
            if value is not None:  # SQLite stores NaN as NULL
                of_pair[self._name(measure)] = float(value)
        return measures

    def blame(self) -> dict[PairKey, dict[str, tuple[Blamed, ...]]]:
        blame: dict[PairKey, dict[str, tuple[Blamed, ...]]] = {}
        for pair, (way, *block) in self._rows("blame", '"by", adapter, block, gain, loss'):
            ways = blame.setdefault(pair, {})
            ways[way] = (*ways.get(way, ()), Blamed(*block))
        return blame

    def recommended(self) -> dict[PairKey, dict[str, Floats]]:
        recommended: dict[PairKey, dict[str, Floats]] = {}
        for pair, (measure, values) in self._rows("recommended", 'measure, "values"'):
            scores = recommended.setdefault(pair, {})
            if measure:
                scores[measure] = _numbers(values).reshape(1, -1)
        return recommended

    def cpu_seconds(self) -> dict[str, float]:
        rows = self.database.execute("select kind, sum(cpu_seconds) from jobs group by kind")
        return {self._name(kind): seconds for kind, seconds in rows}

    def _rows(self, table: str, columns: str) -> Iterator[tuple[PairKey, list[Any]]]:
        query = f"select composition, identity, style, {columns} from {table} order by rowid"
        for composition, identity, style, *values in self.database.execute(query):
            # A plan's own compositions keep their names.
            is_old_control = composition not in CONTROLS and self._name(composition) in CONTROLS
            yield (self._name(composition) if is_old_control else composition, identity, style), values

    def _name(self, name: str) -> str:
        for old, new in self.words.items():
            name = name.replace(old, new)
        return name


def write_results(study: Study, folder: Path) -> Path:
    """Gather the results of all finished jobs in `results.sqlite`, replacing the last one, and return its path."""
    path = folder / RESULTS
    alone = ((name, *both) for name, both in study.expanded.alone.items())
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(TABLES)
        database.executemany("insert into about values (?, ?)", _about(study))
        database.executemany("insert into alone values (?, ?, ?)", alone)
        database.executemany("insert into scores values (?, ?, ?, ?, ?, ?)", _score_rows(study))
        database.executemany("insert into measures values (?, ?, ?, ?, ?, ?, ?)", _measure_rows(study))
        database.executemany("insert into blame values (?, ?, ?, ?, ?, ?, ?, ?)", _blame_rows(study))
        database.executemany("insert into recommended values (?, ?, ?, ?, ?, ?, ?, ?)", _recommended_rows(study))
        database.executemany("insert into jobs values (?, ?, ?, ?)", _job_rows(study))
        database.commit()
        write_atomically(path, database.serialize())
    return path


def _about(study: Study) -> Iterable[tuple[str, str]]:
    from bwlab._version import __version__

    yield "plan", json.dumps(asdict(study.plan), default=dict)
    yield "bwlab", json.dumps(__version__)
    yield "version", json.dumps(VERSION)


def _finished(study: Study, pairs: Iterable[PairJob]) -> Iterable[tuple[PairKey, dict[str, Any]]]:
    for pair in pairs:
        if pair.job.done(study.location.out):
            yield (pair.composition, pair.identity, pair.style), pair.job.result(study.location.out)


def _score_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for pair, result in _finished(study, study.expanded.scores):
        for measure, values in result["values"].items():
            prompts = max(1, len(values) // result["images_per_prompt"])
            yield (*pair, measure, prompts, json.dumps([round(value, DIGITS) for value in values]))


def _measure_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for pair, result in _finished(study, study.expanded.measures):
        for name, measured in measures_of(result).items():
            yield (*pair, name, *measured)


def _blame_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for pair, result in _finished(study, study.expanded.measures):
        for way, blocks in result.get("blame", {}).items():
            for block in blocks:
                yield (*pair, way, block["adapter"], block["block"], block["gain"], block["loss"])


def _recommended_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for pair, result in _finished(study, study.expanded.recommended):
        head = (*pair, *result["specs"], result["tried"])
        for measure, values in (result["values"] or {"": []}).items():
            yield (*head, measure, json.dumps([round(value, DIGITS) for value in values]))


def _job_rows(study: Study) -> Iterable[tuple[object, ...]]:
    for job in study.jobs():
        if job.done(study.location.out):
            yield job.kind, job.name, job.key, job.result(study.location.out)["cpu_seconds"]


def measures_of(result: Mapping[str, Any]) -> dict[str, tuple[float, float | None, float | None]]:
    """Return a measurement's numbers by name: (value, mean of random adapters, their standard deviation)."""
    measured = {f"weights {name}": entry for name, entry in result["weights"].items()}
    for source in SOURCES:
        measured |= {f"{source} {name}": entry for name, entry in result[source]["prediction"].items()}
    whole = {
        name: (entry["value"], entry.get("random"), entry.get("random_sd")) for name, entry in measured.items() if entry
    }
    for source in SOURCES:
        means = {f"{source} {name}{BLOCK_MEAN}": value for name, value in result[source]["blocks"].items()}
        whole |= {name: (value, None, None) for name, value in means.items() if value is not None}
    values = {name: value for name, (value, _, _) in whole.items()} | _loss_values(result["losses"])
    return {name: (value, None, None) for name, value in {**values, **_pair_means(values)}.items()} | whole


def _loss_values(losses: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return what the other adapter adds to the loss on each adapter's images, also as a share of its gain."""
    values = {}
    for kind, loss in losses.items():
        harm, gain = loss["both"] - loss["own"], loss["base"] - loss["own"]
        values[f"loss harm, {kind}"] = harm
        if gain > 0:
            values[f"loss gain lost, {kind}"] = harm / gain
    return values


def _pair_means(values: Mapping[str, float]) -> dict[str, float]:
    """Return the means of the measures that each of the two adapters has."""
    pairs = {
        "loss harm": ("loss harm, identity", "loss harm, style"),
        "loss gain lost": ("loss gain lost, identity", "loss gain lost, style"),
    }
    for end in ("", BLOCK_MEAN):
        for source in SOURCES:
            for name in ("retention", "effect"):
                pairs[f"{source} {name}{end}"] = (f"{source} {name}_a{end}", f"{source} {name}_b{end}")
    return {name: (values[a] + values[b]) / 2 for name, (a, b) in pairs.items() if a in values and b in values}
