"""From plan to a study at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab_analysis.study import MERGE, TRAIN
from bwlab_analysis.study.plan_file import read_plan
from bwlab_analysis.study.study import new_study, scorer_hash
from tests.analysis.study.finished import TINY, Finished


def test_a_finished_study_lacks_nothing(finished: Finished) -> None:
    assert finished.study.unfinished() == []
    assert [job.key for job in finished.study.jobs()] == [job.key for job in finished.order]


def test_jobs_of_a_kind_come_with_what_they_need(finished: Finished) -> None:
    merging = finished.study.jobs([MERGE])
    assert [job.name for job in merging] == ["id, fox", "style, ink", "id + style, TIES, fox x ink"]
    assert {job.kind for job in finished.study.jobs([TRAIN])} == {TRAIN}


def test_a_folder_with_other_things_is_refused(clip: Path, tmp_path: Path) -> None:
    plan = read_plan(str(TINY), clip=str(clip))
    assert new_study(plan, tmp_path).unfinished()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BwlabError, match="a folder with other things in it"):
        new_study(plan, tmp_path)
    (tmp_path / "jobs").mkdir()
    assert new_study(plan, tmp_path).unfinished()


def test_what_a_base_lacks(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="there is no such folder or file"):
        new_study(read_plan(str(TINY), base="nowhere", clip=str(clip)), tmp_path)
    with pytest.raises(BwlabError, match="no CLIP model to score with"):
        new_study(read_plan(str(TINY), base="sd14"), tmp_path)


def test_the_weights_of_a_scorer_tell_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "open_clip_config.json").write_text("{}")
        (tmp_path / name / "open_clip_model.safetensors").write_bytes(b"weights")
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    assert scorer_hash(one) == scorer_hash(two) == scorer_hash(f"local-dir:{two}")
    assert scorer_hash(f"ViT-B-32={one}/open_clip_model.safetensors") != scorer_hash(one)
    (tmp_path / "two" / "open_clip_model.safetensors").write_bytes(b"others")
    assert scorer_hash(one) != scorer_hash(two)
    assert scorer_hash("ViT-B-32=laion") == "ViT-B-32=laion"
