"""Pictures of identities and styles."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bwlab.benchmark import load_benchmark
from bwlab_analysis.study.subjects import data_folder, learned_pictures, true_picture, write_data

FOX, INK = ({"name": name, "words": name, "folder": None, "files": None} for name in ("fox", "ink"))


def learned(kind: str, subject: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, **subject}


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """Return a style of one's own, of three pictures."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a line")
    return {"name": "own", "words": "own", "folder": str(folder), "files": "x"}


def test_one_subjects_data_is_a_folder(tmp_path: Path) -> None:
    found = write_data([learned("identity", FOX)], tmp_path / "data")
    assert found == {"data.folder": str(tmp_path / "data" / "identity-fox")}
    pictures = sorted((tmp_path / "data" / "identity-fox").glob("*.png"))
    assert len(pictures) == len(load_benchmark().identity_pairs("fox"))
    assert all(path.with_suffix(".txt").is_file() for path in pictures)
    assert not any("ink" in path.name for path in pictures)
    assert write_data([learned("identity", FOX)], tmp_path / "data") == found


def test_what_a_kill_left_is_no_hindrance(tmp_path: Path) -> None:
    folder = data_folder("identity", FOX, tmp_path)
    (folder / ".blob-fox.png.0123456789abcdef0123456789abcdef.tmp").write_bytes(b"half")
    names = {path.name for path in data_folder("identity", FOX, tmp_path).iterdir()}
    assert not any(name.endswith(".tmp") for name in names)


def test_two_subjects_count_alike(tmp_path: Path) -> None:
    found = write_data([learned("identity", FOX), learned("style", INK)], tmp_path / "data")
    path = Path(str(found["data.dataset"]))
    subsets = tomllib.loads(path.read_text())["datasets"][0]["subsets"]
    seen = [len(list(Path(one["image_dir"]).glob("*.png"))) * one["num_repeats"] for one in subsets]
    assert [Path(one["image_dir"]).name for one in subsets] == ["identity-fox", "style-ink"]
    assert [one["num_repeats"] for one in subsets] == [round(24 / 5), 1]
    assert max(seen) / min(seen) < 1.1


def test_ones_own_pictures_stay_where_they_are(own: dict[str, Any], tmp_path: Path) -> None:
    assert write_data([learned("style", own)], tmp_path / "data") == {"data.folder": own["folder"]}
    assert data_folder("style", own, tmp_path / "data") == Path(own["folder"])
    assert not (tmp_path / "data").exists()
    assert len(learned_pictures("style", own)) == 3
    assert true_picture(FOX, own) is None


def test_the_benchmarks_pictures() -> None:
    true = true_picture(FOX, INK)
    assert true is not None
    assert np.array_equal(np.asarray(true), np.asarray(load_benchmark().picture("fox", "ink")))
    assert len(learned_pictures("identity", FOX)) == 5
    assert len(learned_pictures("style", INK)) == 24
    same = [np.array_equal(np.asarray(true), np.asarray(one)) for one in learned_pictures("style", INK)]
    assert not any(same), "the true picture must not be learned from"
