"""Identities and styles as jobs tell them."""

from __future__ import annotations

from pathlib import Path

from bwlab_analysis.study.jobs import forget_files, seed_of, subject_fingerprint
from bwlab_analysis.study.plan import Subject


def test_the_benchmarks_subjects_have_no_files() -> None:
    assert subject_fingerprint(Subject("cow-face", "cow face")) == {
        "name": "cow-face",
        "words": "cow face",
        "folder": None,
        "files": None,
    }


def test_files_below_a_folder_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one.txt").write_text("a")
    subject = Subject("us", "us", str(tmp_path))
    before = subject_fingerprint(subject)
    (tmp_path / "below" / "one.txt").write_text("b")
    assert subject_fingerprint(subject) == before, "read once for a study"
    forget_files()
    assert subject_fingerprint(subject) != before


def test_seeds_are_of_names_alone() -> None:
    assert seed_of("id-all fox") == 4083311637
    assert len({seed_of(f"id-all {name}") for name in ("fox", "owl", "crab")}) == 3
