"""Stored results: damage of any kind is found, named, and mended by running the job again."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bwlab.errors import BrokenFileError, BwlabError
from bwlab.files import FolderLock
from bwlab_analysis.study import GENERATE, MEASURE, RECOMMEND, SCORE, TRAIN
from bwlab_analysis.study.jobs import Job
from bwlab_analysis.study.results import read_results
from bwlab_analysis.study.runners import run_locally
from bwlab_analysis.study.stored import RESULT, read_result, write_result, wrong_entry
from bwlab_analysis.study.study import Study, new_study, run_study
from tests.analysis.study.finished import Finished

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Study:
    """Return the finished study in a folder that may be written to."""
    shutil.copytree(finished.out, tmp_path / "out")
    return new_study(finished.study.plan, tmp_path / "out")


def without_checksum(path: Path, change: Change = lambda result: None) -> None:
    """Write a result as versions before checksums did, changed."""
    result = json.loads(path.read_text())
    del result["sha256"]
    change(result)
    path.write_text(json.dumps(result, indent=1))


def run_again(study: Study) -> tuple[list[str], list[str]]:
    """Run a study and return its warnings and the jobs that were run."""
    warnings: list[str] = []
    ran: list[Job] = []
    failures = run_study(study, run_locally, lambda done, total, job: ran.append(job), warn=warnings.append)
    assert [failure.reason for failure in failures] == []
    return warnings, [job.key for job in ran]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "not a whole result"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "not a whole result"),
        (lambda path: path.write_text("[]"), "it is not a JSON object"),
        (lambda path: path.write_text("[" * 100_000), "not a whole result"),
        (lambda path: path.write_bytes(b"\xff"), "not a whole result"),
        (lambda path: path.write_text(path.read_text().replace("seconds", "secands")), "its checksum does not match"),
        (lambda path: without_checksum(path, lambda result: result.pop("values")), "it has no 'values'"),
        (lambda path: without_checksum(path, scored("style", math.nan)), "NaN is no finite number"),
        (lambda path: without_checksum(path, scored("style", 1.5)), "the score 'style' is 1.5, outside -1..1"),
        (lambda path: without_checksum(path, scored("mine", "high")), "the score 'mine' is high, not a finite number"),
        (lambda path: without_checksum(path, scored("mine", 1e9)), None),
        (without_checksum, None),
    ],
)
def test_a_damaged_score_is_named_and_taken_again(
    finished: Finished, copied: Study, damage: Callable[[Path], None], reason: str | None
) -> None:
    job, out = finished.job(SCORE, "joint, fox"), copied.location.out
    path = job.folder(out) / RESULT
    before = job.result(out)
    damage(path)
    assert job.done(out) is (reason is None)
    warnings, ran = run_again(copied)
    if reason is None:
        assert (warnings, ran) == ([], [])
        return
    (warning,) = warnings
    assert warning.startswith(f"score {job.name} is run again: result {path}: ")
    assert reason in warning
    assert "\n" not in warning
    assert ran == [job.key]
    assert job.result(out)["values"] == before["values"]


def scored(name: str, score: object) -> Change:
    def change(result: dict[str, Any]) -> None:
        result["values"][name] = [score]

    return change


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "start", "file", "damage"),
    [
        (GENERATE, "joint", "images.png", Path.unlink),
        (GENERATE, "joint", "images.png", flip),
        (GENERATE, "joint", "images.png", lambda path: path.write_bytes(path.read_bytes()[:-20])),
        (GENERATE, "joint", "images.png", lambda path: Image.new("RGB", (3, 64)).save(path)),
        (TRAIN, "style, ink", "run/adapter.safetensors", Path.unlink),
        (TRAIN, "style, ink", "run/adapter.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-20])),
        (TRAIN, "style, ink", "run/adapter.safetensors", flip),
    ],
)
def test_a_damaged_file_is_named_and_made_again(
    finished: Finished, copied: Study, kind: str, start: str, file: str, damage: Callable[[Path], None]
) -> None:
    job, out = finished.job(kind, start), copied.location.out
    path = job.folder(out) / file
    before = path.read_bytes()
    damage(path)
    assert not job.done(out)
    (warning,), ran = run_again(copied)
    assert f"{path}: " in warning
    assert ran == [job.key]
    assert path.read_bytes() == before


def test_files_of_results_without_their_checksum_are_used(finished: Finished, copied: Study) -> None:
    job, out = finished.job(TRAIN, "style, ink"), copied.location.out
    assert (
        job.result(out)["file_sha256"] == sha256((job.folder(out) / "run/adapter.safetensors").read_bytes()).hexdigest()
    )
    without_checksum(job.folder(out) / RESULT, lambda result: result.pop("file_sha256"))
    assert job.done(out)


def test_a_jobs_own_nan_is_kept_with_its_checksum(tmp_path: Path) -> None:
    result = {"cpu_seconds": 1.0, "weights": {"lost": {"value": math.nan}}, "images": {}, "prompts": {}, "losses": {}}
    write_result(tmp_path, result)
    assert math.isnan(read_result(tmp_path)["weights"]["lost"]["value"])
    assert wrong_entry(MEASURE, result) is None
    without_checksum(tmp_path / RESULT)
    with pytest.raises(BrokenFileError, match="NaN is no finite number"):
        read_result(tmp_path)


def test_scores_that_are_no_numbers_are_not_stored() -> None:
    whole = {"cpu_seconds": 1.0, "specs": ["1", "1"], "tried": 0, "values": None}
    assert wrong_entry(RECOMMEND, whole) is None
    assert wrong_entry(RECOMMEND, {**whole, "values": {"text": [math.nan]}}) is not None
    assert wrong_entry(RECOMMEND, {**whole, "values": {"text": [True]}}) is not None
    assert wrong_entry(RECOMMEND, {**whole, "values": {"text": []}}) is not None
    score = {"cpu_seconds": 1.0, "images_per_prompt": 0, "values": {}}
    assert wrong_entry(SCORE, score) == "its images_per_prompt is 0"


def test_one_study_at_a_time_runs_in_a_folder(copied: Study) -> None:
    with (
        FolderLock(copied.location.out, "study"),
        pytest.raises(BwlabError, match=r"another study \(process \d+\) is writing there"),
    ):
        run_again(copied)
    (copied.location.out / ".lock").write_text("1\n")  # of a process that was killed
    assert run_again(copied) == ([], [])
    assert not (copied.location.out / ".lock").exists()


def test_a_study_killed_before_its_first_job_is_begun_again(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("1\n")
    assert new_study(finished.study.plan, tmp_path).unfinished()


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, None])
def test_damaged_results_are_named_and_made_anew(
    finished: Finished, copied: Study, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bwlab_analysis.study.report import write_report

    monkeypatch.setattr("bwlab_analysis.study.figures.figures_of", lambda results: {})
    path = copied.location.out / "reports" / "tiny" / "results.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BrokenFileError, match=r"results\.sqlite: not a whole file of results .*made again"):
        read_results(path)
    for unfinished in (path.parent, path.parent / "figures"):
        (unfinished / f".x.png.{'0a' * 16}.tmp").write_bytes(b"half")
    write_report(copied)
    with sqlite3.connect(path) as one, sqlite3.connect(finished.reports[0]) as other:
        assert list(one.iterdump()) == list(other.iterdump())
    assert not list(path.parent.rglob("*.tmp"))
