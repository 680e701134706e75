"""Gathers what a study's jobs found in one SQLite file, which `bwlab_analysis.study.results` reads."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bwlab_analysis.study.expansion import Pair
from bwlab_analysis.study.results import FILE, Where
from bwlab_analysis.study.study import Study

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


def write_results(study: Study, folder: Path) -> Path:
    """Gather the results of all finished jobs in ``results.sqlite``, replacing the last one, and return its path."""
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
    from bwlab import __version__

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
    """What the other adapter does to the loss on each one's pictures, and as a share of what it gained."""
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
