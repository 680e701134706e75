"""Identities and styles as jobs know them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.blocks.scheme import BlockScheme
from bwlab_analysis.study import subjects
from bwlab_analysis.study.expand import expand
from bwlab_analysis.study.jobs import SubjectFingerprint, seed_of
from bwlab_analysis.study.plan import Subject
from bwlab_analysis.study.subjects import fingerprint
from tests.analysis.study.test_expand import BOTH, plan


def test_the_benchmarks_subjects_have_no_files() -> None:
    found = fingerprint("identity", Subject("cow-face", "cow face"))
    assert found == SubjectFingerprint("identity", "cow-face", "cow face", None, None)


def test_files_below_a_folder_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one.txt").write_text("a")
    subject = Subject("us", "us", str(tmp_path))
    before = fingerprint("style", subject)
    assert fingerprint("style", subject) == before
    (tmp_path / "below" / "one.txt").write_text("b")
    changed = fingerprint("style", subject)
    assert changed != before, "nothing is kept from one study to the next"
    (tmp_path / ".DS_Store").write_text("seen")
    (tmp_path / "Thumbs.db").write_text("seen")
    assert fingerprint("style", subject) == changed, "looking at a folder changes nothing that is learned"
    (tmp_path / "below" / "one.txt").rename(tmp_path / "below" / "two.txt")
    assert fingerprint("style", subject) != changed, "a caption belongs to the image of its name"


def test_a_study_reads_the_files_of_a_folder_once(
    scheme: BlockScheme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.txt").write_text("a")
    read: list[str | None] = []

    def watched(folder: str | None) -> str | None:
        read.append(folder)
        return "hash" if folder else None

    monkeypatch.setattr(subjects, "_files_hash", watched)
    expand(plan({"both": BOTH}, styles=(Subject("us", "us", str(tmp_path)),)), scheme, "scorer")
    assert read.count(str(tmp_path)) == 1


def test_seeds_are_of_names_alone() -> None:
    assert seed_of("id-all fox") == 4083311637
    assert len({seed_of(f"id-all {name}") for name in ("fox", "owl", "crab")}) == 3
