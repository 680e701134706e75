"""Jobs: what decides their keys, and the order in which they come."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bwlab_analysis.study import JOB_KINDS
from bwlab_analysis.study.jobs import Job, Json, MergeSettings, slug, with_needs
from bwlab_analysis.study.stored import RESULT
from tests.analysis.study.small_jobs import generation, scoring, settings_of, training

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
SETTINGS = st.dictionaries(st.text(max_size=5), LEAVES | st.lists(LEAVES, max_size=3), max_size=5)


@settings(max_examples=60)
@given(SETTINGS, st.randoms())
def test_the_order_of_settings_decides_nothing(made: dict[str, Json], order: random.Random) -> None:
    shuffled = list(made.items())
    order.shuffle(shuffled)
    assert training("one", made).key == training("other", dict(shuffled)).key


@settings(max_examples=60)
@given(SETTINGS, SETTINGS)
def test_settings_decide_the_key(one: dict[str, Json], other: dict[str, Json]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (training("", one).key == training("", other).key) == same


def test_every_field_of_the_settings_decides_the_key() -> None:
    merge = MergeSettings("emoji", "ties", ("1", "1"), 0.5, 3)
    changed = [
        MergeSettings("other", "ties", ("1", "1"), 0.5, 3),
        MergeSettings("emoji", "dare", ("1", "1"), 0.5, 3),
        MergeSettings("emoji", "ties", ("1", "0.5"), 0.5, 3),
        MergeSettings("emoji", "ties", ("1", "1"), None, 3),
        MergeSettings("emoji", "ties", ("1", "1"), 0.5, None),
    ]
    assert len({Job("", one).key for one in (merge, *changed)}) == len(changed) + 1


def test_kind_and_needs_decide_the_key_and_names_do_not() -> None:
    first, second = training("a", {"training.steps": 2}), training("b", {"training.steps": 3})
    plain = generation("x").settings
    jobs = [
        Job("x", plain),
        scoring("x"),
        Job("x", plain, {"0": first}),
        Job("x", plain, {"1": first}),
        Job("x", plain, {"0": second}),
        Job("x", plain, {"0": first, "1": second}),
        Job("x", plain, {"0": second, "1": first}),
    ]
    assert len({job.key for job in jobs}) == len(jobs)
    assert Job("y", plain, {"0": training("renamed", {"training.steps": 2})}).key == jobs[2].key


def test_keys_stay_as_they_are() -> None:
    """Studies that were begun with an earlier version continue: a change of this key would do all their work again."""
    assert generation("x", {"0": training("a", {"words": "é"})}).key == "3232db412de75e42"


@settings(max_examples=60)
@given(st.text(max_size=100))
def test_slugs_are_names_of_files(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9.-]{0,80}", slug(name))
    assert not slug(name).startswith("-")


def test_a_result_is_kept_in_the_jobs_folder(tmp_path: Path) -> None:
    job = training("id, fox")
    assert not job.done(tmp_path)
    with pytest.raises(FileNotFoundError):
        job.result(tmp_path)
    folder = job.folder(tmp_path)
    assert folder == tmp_path / "jobs" / "train" / f"id-fox-{job.key}"
    folder.mkdir(parents=True)
    save_file({"one": np.zeros(2)}, folder / "é")
    (folder / RESULT).write_text('{"file": "é", "cpu_seconds": 1}', encoding="utf-8")
    assert job.done(tmp_path)
    assert job.result(tmp_path) == {"file": "é", "cpu_seconds": 1}


@st.composite
def job_lists(draw: st.DrawFn) -> list[Job]:
    """Jobs that need earlier ones of their own or an earlier kind, some of them the same twice."""
    made: list[Job] = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(JOB_KINDS))
        able = [job for job in made if JOB_KINDS.index(job.kind) <= JOB_KINDS.index(kind)]
        needs = draw(st.lists(st.sampled_from(able), max_size=3)) if able else []
        settings = settings_of(kind, draw(st.integers(0, 3)))
        made.append(Job("", settings, {str(index): job for index, job in enumerate(needs)}))
    return made


@settings(max_examples=60)
@given(job_lists())
def test_needs_come_first_and_each_job_once(jobs: list[Job]) -> None:
    ordered = with_needs(jobs[-3:])
    keys = [job.key for job in ordered]
    assert len(set(keys)) == len(keys)
    assert {job.key for job in jobs[-3:]} <= set(keys)
    for place, job in enumerate(ordered):
        assert {need.key for need in job.needs.values()} <= set(keys[:place])
    kinds = [JOB_KINDS.index(job.kind) for job in ordered]
    assert kinds == sorted(kinds)
