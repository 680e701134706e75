"""ZipLoRA as a merge of a study: what decides the result, the file that is written, and what is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bwlab.adapters.save import save_adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.formats.read import read_contents
from bwlab.merging.ziplora import ZipLoraSettings
from bwlab_analysis.study import MERGE
from bwlab_analysis.study.context import JobContext, StudyLocation, open_job_context
from bwlab_analysis.study.expand import expand
from bwlab_analysis.study.jobs import Job, MergeSettings, ZipMergeSettings, with_needs
from bwlab_analysis.study.plan import AdapterPlan, CompositionPlan, MeasurePlan, SamplingPlan, StudyPlan, Subject
from bwlab_analysis.study.plan_file import plan_of
from bwlab_analysis.study.work import perform
from tests.merging.test_ziplora import random_adapter

QUICK = ZipLoraSettings(steps=1, lr=0.01, batch_size=1)
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
        compositions={"merged": CompositionPlan(use={"style": "1", "id": "1"}, merge=method)},
        sweeps={},
        claims={},
        measures=MeasurePlan(),
        sampling=SamplingPlan(),
    )
    return [job for job in with_needs(expand(plan, scheme, "scorer").jobs()) if job.kind == MERGE]


def test_images_and_learning_decide_the_result_of_ziplora_alone(scheme: BlockScheme, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("us")
    us = Subject("us", "us", str(tmp_path))
    (job,) = merges(scheme, "ziplora", us)
    assert isinstance(job.settings, ZipMergeSettings)
    learned = job.settings.learned
    assert [(subject.kind, subject.name) for subject in learned] == [("style", "us"), ("identity", "owl")]  # as used
    assert learned[0].files is not None
    assert job.settings.optimisation == ZipLoraSettings()
    (ties,) = merges(scheme, "ties", us)
    assert isinstance(ties.settings, MergeSettings)


def with_settings(job: Job, optimisation: ZipLoraSettings) -> Job:
    assert isinstance(job.settings, ZipMergeSettings)
    return replace(job, settings=replace(job.settings, optimisation=optimisation))


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    return open_job_context(StudyLocation(tmp_path / "out", "clip", "cpu"), warnings.warn)


@pytest.fixture
def job(scheme: BlockScheme, context: JobContext) -> Job:
    """Return a merge of two adapters that are there, of one step."""
    (whole,) = merges(scheme, "ziplora", Subject("ink", "ink"))
    quick = with_settings(whole, QUICK)
    pipe, out = context.base("emoji").pipe, context.location.out
    made = (random_adapter(pipe, f"out3={STYLE_RANK}", 1), random_adapter(pipe, f"out3={IDENTITY_RANK}", 2))
    for need, adapter in zip(quick.needs.values(), made, strict=True):
        folder = need.folder(out)
        folder.mkdir(parents=True)
        save_adapter(adapter, folder / "adapter.safetensors")
        (folder / "result.json").write_text(json.dumps({"file": "adapter.safetensors"}))
    return quick


def test_the_job_writes_one_plain_file_of_both_ranks(job: Job, context: JobContext) -> None:
    perform(job, context)
    contents = read_contents(context.file_of(job))
    assert contents.dialect == "kohya"
    assert {module.rank() for module in contents.modules.values()} == {IDENTITY_RANK + STYLE_RANK}
    assert {module.algorithm for module in contents.modules.values()} == {"lora"}
    data = {path.name for path in (job.folder(context.location.out) / "data").iterdir()}
    assert data == {"style-ink", "identity-owl"}


def test_without_a_step_the_file_is_the_exact_sum(job: Job, context: JobContext) -> None:
    still = with_settings(job, replace(QUICK, steps=0))
    perform(still, context)
    parts = [read_contents(context.file_of(need)).modules for need in still.needs.values()]
    merged = read_contents(context.file_of(still)).modules
    shapes = {module.delta().ndim for module in merged.values()}
    assert shapes == {2, 4}  # linear layers and convolutions
    for path, module in merged.items():
        total = sum(part[path].delta() for part in parts)
        np.testing.assert_allclose(module.delta(), total, rtol=1e-6, atol=1e-9)


def test_an_interrupted_merge_is_begun_anew_and_ends_alike(job: Job, context: JobContext) -> None:
    folder = job.folder(context.location.out)
    perform(job, context)
    first = load_file(folder / "adapter.safetensors")
    (folder / "result.json").unlink()
    (folder / "adapter.safetensors").write_bytes(b"half")
    perform(job, context)
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
def test_ziplora_takes_one_identity_and_one_style_alone(use: Mapping[str, object], found: str) -> None:
    adapters = {"id": {"learns": "identity"}, "id2": {"learns": "identity"}, "style": {"learns": "style"}}
    table = {"adapters": adapters, "compositions": {"x": {"use": use, "merge": "ziplora"}}}
    with pytest.raises(BwlabError) as told:
        plan_of(table, "mine", {})
    assert "compositions.x.merge = ziplora" in str(told.value)
    assert found in str(told.value)
    assert "\n" not in str(told.value)
