"""Images of identities and styles."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bwlab.benchmark import load_benchmark
from bwlab_analysis.study.jobs import SubjectFingerprint
from bwlab_analysis.study.subjects import data_folder, learned_images, true_image, write_data
from tests.analysis.study.small_jobs import FOX, INK


@pytest.fixture
def own(tmp_path: Path) -> SubjectFingerprint:
    """Return a style of one's own, of three images."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a line")
    return SubjectFingerprint("style", "own", "own", str(folder), "x")


def test_one_subjects_data_is_a_folder(tmp_path: Path) -> None:
    found = write_data([FOX], tmp_path / "data")
    assert found == {"data.folder": str(tmp_path / "data" / "identity-fox")}
    images = sorted((tmp_path / "data" / "identity-fox").glob("*.png"))
    assert len(images) == len(load_benchmark().identity_pairs("fox"))
    assert all(path.with_suffix(".txt").is_file() for path in images)
    assert not any("ink" in path.name for path in images)
    assert write_data([FOX], tmp_path / "data") == found


def test_files_left_by_a_killed_run_are_removed(tmp_path: Path) -> None:
    folder = data_folder(FOX, tmp_path)
    (folder / ".blob-fox.png.0123456789abcdef0123456789abcdef.tmp").write_bytes(b"half")
    names = {path.name for path in data_folder(FOX, tmp_path).iterdir()}
    assert not any(name.endswith(".tmp") for name in names)


def test_two_subjects_count_alike(tmp_path: Path) -> None:
    found = write_data([FOX, INK], tmp_path / "data")
    path = Path(str(found["data.dataset"]))
    subsets = tomllib.loads(path.read_text())["datasets"][0]["subsets"]
    seen = [len(list(Path(one["image_dir"]).glob("*.png"))) * one["num_repeats"] for one in subsets]
    assert [Path(one["image_dir"]).name for one in subsets] == ["identity-fox", "style-ink"]
    assert [one["num_repeats"] for one in subsets] == [round(24 / 5), 1]
    assert max(seen) / min(seen) < 1.1


def test_own_images_stay_where_they_are(own: SubjectFingerprint, tmp_path: Path) -> None:
    assert write_data([own], tmp_path / "data") == {"data.folder": own.folder}
    assert data_folder(own, tmp_path / "data") == Path(str(own.folder))
    assert not (tmp_path / "data").exists()
    assert len(learned_images(own)) == 3
    assert true_image(FOX, own) is None


def test_the_benchmarks_images() -> None:
    true = true_image(FOX, INK)
    assert true is not None
    assert np.array_equal(np.asarray(true), np.asarray(load_benchmark().image("fox", "ink")))
    assert len(learned_images(FOX)) == 5
    assert len(learned_images(INK)) == 24
    same = [np.array_equal(np.asarray(true), np.asarray(one)) for one in learned_images(INK)]
    assert not any(same), "the true image must not be learned from"
