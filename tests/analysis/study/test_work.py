"""Jobs at work: what each writes, and what an interrupted one does when it is run again."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from bwlab_analysis.study import GENERATE, JOB_KINDS, TRAIN
from bwlab_analysis.study.context import JobContext, StudyLocation, open_job_context
from bwlab_analysis.study.jobs import GenerateSettings, Job
from bwlab_analysis.study.subjects import generated_images, in_rows
from bwlab_analysis.study.work import perform
from tests.analysis.study.finished import Finished
from tests.analysis.study.small_jobs import generation


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> JobContext:
    """Return the finished study in a folder that may be written to."""
    shutil.copytree(finished.out, tmp_path / "out")
    return open_job_context(StudyLocation(tmp_path / "out", finished.study.location.clip), warnings.warn)


def test_every_kind_of_job_is_done(finished: Finished) -> None:
    assert {job.kind for job in finished.order} == set(JOB_KINDS)
    for job in finished.order:
        result: Any = job.result(finished.out)
        assert result["cpu_seconds"] > 0
        assert result["seconds"] > 0
        if "file" in result:
            assert (job.folder(finished.out) / result["file"]).is_file()


def test_a_job_that_is_done_is_not_run_again(finished: Finished) -> None:
    files = {path: path.stat().st_mtime_ns for path in finished.out.rglob("*")}
    context = open_job_context(finished.study.location, warnings.warn)
    for job in finished.order:
        assert perform(job, context) == job.result(finished.out)
    assert {path: path.stat().st_mtime_ns for path in finished.out.rglob("*")} == files


def test_an_adapter_kept_clear_of_another(finished: Finished) -> None:
    config = (finished.job(TRAIN, "ortho").folder(finished.out) / "run" / "config.toml").read_text()
    other = finished.job(TRAIN, "id, fox")
    assert json.dumps(str(other.folder(finished.out) / "run" / "adapter.safetensors")) in config


def test_a_fusion_acts(finished: Finished, copied: JobContext) -> None:
    summed = finished.job(GENERATE, "id + half style, fox x ink")
    assert isinstance(summed.settings, GenerateSettings)
    fused = Job("fused", replace(summed.settings, fusion="switch:steps=1"), summed.needs)
    assert fused.key != summed.key
    perform(fused, copied)
    images = (generated_images(job, copied.location.out) for job in (summed, fused))
    assert all(one.tobytes() != other.tobytes() for one, other in zip(*images, strict=True))


def interrupted(job: Job, out: Path, left: str) -> Path:
    """Make a training what a kill would have left of it, and return its folder."""
    folder = job.folder(out)
    (folder / "result.json").unlink()
    if left == "nothing":
        shutil.rmtree(folder)
    else:
        (folder / "run" / "adapter.safetensors").unlink()
    if left == "a run without its settings":
        (folder / "run" / "config.toml").rename(folder / "run" / ".config.toml.0123456789abcdef0123456789abcdef.tmp")
    return folder


@pytest.mark.parametrize("left", ["nothing", "a run", "a run without its settings"])
def test_an_interrupted_training_is_done_as_if_it_had_not_been(
    finished: Finished, copied: JobContext, left: str
) -> None:
    job, out = finished.job(TRAIN, "style, ink"), copied.location.out
    folder = interrupted(job, out, left)
    assert not job.done(out)
    perform(job, copied)
    again, once = (load_file(one / "run" / "adapter.safetensors") for one in (folder, job.folder(finished.out)))
    assert again.keys() == once.keys()
    assert all(np.array_equal(again[name], once[name]) for name in again)


def test_images_are_generated_alike_again(finished: Finished, copied: JobContext) -> None:
    job, out = finished.job(GENERATE, "id + half style"), copied.location.out
    (job.folder(out) / "result.json").unlink()
    (job.folder(out) / "images.png").write_bytes(b"half")
    perform(job, copied)
    images = generated_images(job, out)
    assert [image.size for image in images] == [(64, 64)] * 4
    before = generated_images(job, finished.out)
    assert all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in zip(images, before, strict=True))


def test_images_in_rows_are_read_again(tmp_path: Path) -> None:
    images = [Image.new("RGB", (7, 7), (number, 0, 0)) for number in range(6)]
    job = generation("")
    job.folder(tmp_path).mkdir(parents=True)
    in_rows(images, 3).save(job.folder(tmp_path) / "images.png")
    (job.folder(tmp_path) / "result.json").write_text('{"file": "images.png", "side": 7}')
    assert [image.getpixel((3, 3)) for image in generated_images(job, tmp_path)] == [
        (number, 0, 0) for number in range(6)
    ]
