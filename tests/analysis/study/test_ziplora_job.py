"""ZipLoRA's weights as a study's merge: what decides the result, the file that comes of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from bwlab.adapters.save import save_adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.formats.read import read_contents
from bwlab_analysis.study.context import JobContext, StudyLocation, open_job_context
from bwlab_analysis.study.expand import expanded
from bwlab_analysis.study.jobs import MERGE, Job, with_needs
from bwlab_analysis.study.plan import AdapterPlan, CompositionPlan, MeasurePlan, SamplingPlan, StudyPlan, Subject
from bwlab_analysis.study.plan_file import plan_of
from bwlab_analysis.study.work import perform
from tests.analysis.study.test_ziplora import random_adapter

QUICK = {"steps": 1, "rate": 0.01, "batch": 1, "apart": 0.01, "seed": 0}
IDENTITY_RANK, STYLE_RANK = 3, 2


def merges(scheme: BlockScheme, method: str, style: Subject) -> list[Job]:
    """Return the merges of one identity and one style by a method."""
    plan = StudyPlan(
        name="study",
        title="a study",
        base="emoji",
        clip=None,
        identities=(Subject("owl", "owl"),),
        styles=(style,),
        adapters={"id": AdapterPlan("identity"), "style": AdapterPlan("style")},
        compositions={"merged": CompositionPlan({"style": "1", "id": "1"}, merge=method)},
        sweeps={},
        claims={},
        measures=MeasurePlan(),
        sampling=SamplingPlan(),
    )
    return [job for job in with_needs(expanded(plan, scheme, "scorer").jobs()) if job.kind == MERGE]


def test_pictures_and_learning_decide_the_result_of_zip_alone(scheme: BlockScheme, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("us")
    us = Subject("us", "us", str(tmp_path))
    (job,) = merges(scheme, "zip", us)
    learned: Any = job.settings["learned"]
    assert [(one["kind"], one["name"]) for one in learned] == [("style", "us"), ("identity", "owl")]  # as they are used
    assert learned[0]["files"] is not None
    assert job.settings["weights"] == {"steps": 40, "rate": 0.03, "batch": 2, "apart": 0.01, "seed": 0}
    (ties,) = merges(scheme, "ties", us)
    assert not {"weights", "learned"} & set(ties.settings)


@pytest.fixture
def workshop(tmp_path: Path) -> JobContext:
    return open_job_context(StudyLocation(tmp_path / "out", "clip", "cpu"))


@pytest.fixture
def job(scheme: BlockScheme, workshop: JobContext) -> Job:
    """Return a merge of two adapters that are there, of one step."""
    (whole,) = merges(scheme, "zip", Subject("ink", "ink"))
    quick = replace(whole, settings={**whole.settings, "weights": dict(QUICK)})
    lab, out = workshop.lab("emoji"), workshop.place.out
    made = (random_adapter(lab, f"out3={STYLE_RANK}", 1), random_adapter(lab, f"out3={IDENTITY_RANK}", 2))
    for need, adapter in zip(quick.needs.values(), made, strict=True):
        folder = need.folder(out)
        folder.mkdir(parents=True)
        save_adapter(adapter, folder / "adapter.safetensors")
        (folder / "result.json").write_text(json.dumps({"file": "adapter.safetensors"}))
    return quick


def test_the_job_writes_one_plain_file_of_both_ranks(job: Job, workshop: JobContext) -> None:
    perform(job, workshop)
    contents = read_contents(workshop.file_of(job))
    assert contents.dialect == "kohya"
    assert {module.rank() for module in contents.modules.values()} == {IDENTITY_RANK + STYLE_RANK}
    assert {module.algorithm for module in contents.modules.values()} == {"lora"}
    data = {path.name for path in (job.folder(workshop.place.out) / "data").iterdir()}
    assert data == {"style-ink", "identity-owl"}


def test_without_a_step_the_file_is_the_exact_sum(job: Job, workshop: JobContext) -> None:
    still = replace(job, settings={**job.settings, "weights": {**QUICK, "steps": 0}})
    perform(still, workshop)
    parts = [read_contents(workshop.file_of(need)).modules for need in still.needs.values()]
    merged = read_contents(workshop.file_of(still)).modules
    shapes = {module.delta().ndim for module in merged.values()}
    assert shapes == {2, 4}  # linear layers and convolutions
    for path, module in merged.items():
        total = sum(part[path].delta() for part in parts)
        np.testing.assert_allclose(module.delta(), total, rtol=1e-6, atol=1e-9)


def test_an_interrupted_merge_is_begun_anew_and_ends_alike(job: Job, workshop: JobContext) -> None:
    folder = job.folder(workshop.place.out)
    perform(job, workshop)
    first = load_file(folder / "adapter.safetensors")
    (folder / "result.json").unlink()
    (folder / "adapter.safetensors").write_bytes(b"half")
    perform(job, workshop)
    again = load_file(folder / "adapter.safetensors")
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize(
    ("use", "found"),
    [
        ({"id": 1, "id2": 1}, "adapters of identity, identity at 1, 1"),
        ({"id": 1, "style": 0.5}, "adapters of identity, style at 1, 0.5"),
        ({"id": 1, "style": 1, "id2": 1}, "adapters of identity, identity, style at 1, 1, 1"),
        ({"id": 1}, "1 adapters"),
    ],
)
def test_a_plan_may_zip_one_identity_and_one_style_alone(use: Mapping[str, object], found: str) -> None:
    adapters = {"id": {"learns": "identity"}, "id2": {"learns": "identity"}, "style": {"learns": "style"}}
    table = {"adapters": adapters, "compositions": {"x": {"use": use, "merge": "zip"}}}
    with pytest.raises(BwlabError) as told:
        plan_of(table, "mine", {})
    assert "compositions.x.merge = zip" in str(told.value)
    assert found in str(told.value)
    assert "\n" not in str(told.value)
