"""The survey of many images: memory in bounds, however many look the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from bwlab.cli.data import run_settings, survey_settings
from bwlab.dataset import survey

ALONE = """
import json, sys
from bwlab.cli.app import main
try:
    main(["data", "check", sys.argv[1], "--resolution", "16", "--json"])
except SystemExit as ended:
    assert not ended.code, ended.code
assert "torch" not in sys.modules
"""


def folder_of(path: Path, count: int) -> Path:
    """Return a folder of captioned flat images, all of which look the same although no two files are equal."""
    path.mkdir()
    for number in range(count):
        Image.new("RGB", (16, 16), (number % 251, number // 251, 7)).save(path / f"{number:04d}.png")
        (path / f"{number:04d}.txt").write_text("ink, fox")
    return path


def surveyed(folder: Path) -> survey.Survey:
    """Return the survey of a folder without a base."""
    settings, _ = run_settings(folder, None, 16, [])
    return survey_settings(settings, with_base=False)


def test_images_that_all_look_the_same_give_a_bounded_number_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "images", 20)
    assert len(surveyed(folder).near_duplicates) == 190
    monkeypatch.setattr(survey, "MOST_NEAR_DUPLICATES", 31)
    cut = surveyed(folder)
    assert len(cut.near_duplicates) == 31
    assert "at least 31 pairs of images look the same; only so many are listed" in cut.notes


def test_an_image_more_costs_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's objects only; 20,000 images at 8 kB each are 160 MB. The pixels of one image alone are 768 bytes."""
    monkeypatch.setattr(survey, "MOST_NEAR_DUPLICATES", 100)
    few, many = folder_of(tmp_path / "few", 10), folder_of(tmp_path / "many", 110)
    surveyed(few)
    peaks = []
    for folder in (few, many):
        tracemalloc.start()
        surveyed(folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100 * 8_000


def test_a_survey_without_a_base_imports_no_torch(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-c", ALONE, str(folder_of(tmp_path / "images", 3))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trainable"] == 3
