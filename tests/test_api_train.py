"""`bwlab.train`: what `bwlab train` does, from Python."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

import bwlab
from bwlab.cli.app import main
from bwlab.errors import BwlabError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with a captioned image."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (64, 64), "orange").save(folder / "fox.png")
    (folder / "fox.txt").write_text("noto, fox")
    return folder


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_it_trains_what_the_command_trains(
    tiny_pipeline: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.toml").write_text('[training]\nsteps = 7\nlr = 2e-3\n[adapter]\nblocks = "in0=2"\n')
    settings = {"base": tiny_pipeline, "data.folder": images, "out": tmp_path / "api", "training.steps": 2}
    settings["preview.steps"] = 1
    file = bwlab.train(settings, tmp_path / "more.toml")
    assert capsys.readouterr() == ("", "")
    words = ["train", "--data", str(images), "--out", str(tmp_path / "api"), "--blocks", "in0=2", "--steps", "2"]
    words += ["--base", str(tiny_pipeline), "--set", "preview.steps=1"]
    before = digest(file)
    with pytest.raises(SystemExit) as end:
        main([*words, "--lr", "2e-3", "--overwrite"])
    assert end.value.code == 0
    assert digest(file) == before


def test_a_run_is_neither_replaced_nor_resumed_unless_asked(
    tiny_pipeline: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"base": tiny_pipeline, "data.folder": images, "out": tmp_path / "run", "training.steps": 1}
    settings |= {"adapter.blocks": "in0=2", "preview.steps": 1}
    bwlab.train(settings, quiet=False)
    assert "trained" in capsys.readouterr().err
    with pytest.raises(BwlabError, match="--resume"):
        bwlab.train(settings)
    with pytest.raises(BwlabError, match="both resume and overwrite are given"):
        bwlab.train(settings, resume=True, overwrite=True)
    bwlab.train(settings, overwrite=True)


def test_a_wrong_setting_is_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match=r"settings\['training.stps'\]"):
        bwlab.train({"data.folder": images, "out": tmp_path / "run", "training.stps": 1})
