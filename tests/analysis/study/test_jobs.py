"""Jobs: what decides their keys, and the order in which they come."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwlab_analysis.study.jobs import KINDS, PAINT, RESULT, SCORE, TRAIN, Job, Json, slug, with_needs

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
SETTINGS = st.dictionaries(st.text(max_size=5), LEAVES | st.lists(LEAVES, max_size=3), max_size=5)


@settings(max_examples=60, deadline=None)
@given(SETTINGS, st.randoms())
def test_the_order_of_settings_decides_nothing(made: dict[str, Json], order: random.Random) -> None:
    shuffled = list(made.items())
    order.shuffle(shuffled)
    assert Job(TRAIN, "one", made).key == Job(TRAIN, "other", dict(shuffled)).key


@settings(max_examples=60, deadline=None)
@given(SETTINGS, SETTINGS)
def test_settings_decide_the_key(one: dict[str, Json], other: dict[str, Json]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (Job(TRAIN, "", one).key == Job(TRAIN, "", other).key) == same


def test_kind_and_needs_decide_the_key_and_names_do_not() -> None:
    first, second = Job(TRAIN, "a", {"steps": 2}), Job(TRAIN, "b", {"steps": 3})
    jobs = [
        Job(PAINT, "x", {}),
        Job(SCORE, "x", {}),
        Job(PAINT, "x", {}, {"0": first}),
        Job(PAINT, "x", {}, {"1": first}),
        Job(PAINT, "x", {}, {"0": second}),
        Job(PAINT, "x", {}, {"0": first, "1": second}),
        Job(PAINT, "x", {}, {"0": second, "1": first}),
    ]
    assert len({job.key for job in jobs}) == len(jobs)
    assert Job(PAINT, "y", {}, {"0": Job(TRAIN, "renamed", {"steps": 2})}).key == jobs[2].key


def test_keys_stay_as_they_are() -> None:
    """Studies that were begun with an earlier version go on: a change of this key would do all their work again."""
    assert Job(PAINT, "x", {"cfg": 3.0}, {"0": Job(TRAIN, "a", {"words": "é"})}).key == "2108d8f635fba6ef"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=100))
def test_slugs_are_names_of_files(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9.-]{0,80}", slug(name))
    assert not slug(name).startswith("-")


def test_a_result_is_kept_in_the_jobs_folder(tmp_path: Path) -> None:
    job = Job(TRAIN, "id, fox", {})
    assert not job.done(tmp_path)
    with pytest.raises(FileNotFoundError):
        job.result(tmp_path)
    folder = job.folder(tmp_path)
    assert folder == tmp_path / "jobs" / "train" / f"id-fox-{job.key}"
    folder.mkdir(parents=True)
    (folder / RESULT).write_text('{"file": "é"}', encoding="utf-8")
    assert job.done(tmp_path)
    assert job.result(tmp_path) == {"file": "é"}


@st.composite
def job_lists(draw: st.DrawFn) -> list[Job]:
    """Jobs that need earlier ones of their own or an earlier kind, some of them the same twice."""
    made: list[Job] = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.integers(0, len(KINDS) - 1))
        able = [job for job in made if KINDS.index(job.kind) <= kind]
        chosen = draw(st.lists(st.sampled_from(able), max_size=3)) if able else []
        needs = {str(place): job for place, job in enumerate(chosen)}
        made.append(Job(KINDS[kind], "", {"number": draw(st.integers(0, 3))}, needs))
    return made


@settings(max_examples=60, deadline=None)
@given(job_lists())
def test_needs_come_first_and_each_job_once(jobs: list[Job]) -> None:
    ordered = with_needs(jobs[-3:])
    keys = [job.key for job in ordered]
    assert len(set(keys)) == len(keys)
    assert {job.key for job in jobs[-3:]} <= set(keys)
    for place, job in enumerate(ordered):
        assert {need.key for need in job.needs.values()} <= set(keys[:place])
    kinds = [KINDS.index(job.kind) for job in ordered]
    assert kinds == sorted(kinds)
