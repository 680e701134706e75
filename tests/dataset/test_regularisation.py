"""Regularisation images that the base draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from bwlab.errors import BwlabError
from bwlab.generation.recipe import read_recipe
from bwlab.images import read_rgb
from bwlab.training import sampling
from bwlab.training.config import TrainConfig
from tests.dataset.loaded import load, settings

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


@pytest.fixture
def config(two_images: Path, tmp_path: Path) -> TrainConfig:
    """Return settings that have the base draw three images."""
    return drawing(two_images, tmp_path / "class")


def drawing(data: Path, folder: Path, *sets: str) -> TrainConfig:
    own = f"regularisation.folder={folder}", "regularisation.generate=3", "regularisation.prompt=a fox"
    return settings(data, *own, "regularisation.steps=2", "regularisation.seed=5", *sets)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_base_generates_missing_images_with_captions(pipe: Pipeline, config: TrainConfig, tmp_path: Path) -> None:
    data, _ = load(config, pipe)
    names = {f"base-0000{seed}{ending}" for seed in (5, 6, 7) for ending in (".png", ".txt")}
    first = contents(tmp_path / "class")
    assert set(first) == names
    assert first["base-00005.txt"] == b"a fox\n"
    assert len({first[name] for name in names if name.endswith("png")}) == 3
    recipe = read_recipe(tmp_path / "class" / "base-00006.png")
    assert (recipe.prompt, recipe.seed, recipe.steps, recipe.width) == ("a fox", 6, 2, 32)
    old = [example for example in data.examples if example.regularisation]
    assert [example.caption for example in old] == ["a fox"] * 3


def test_stopped_generation_is_resumed(
    pipe: Pipeline, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(config, pipe)
    first = contents(tmp_path / "class")
    (tmp_path / "class" / "base-00006.png").unlink()
    (tmp_path / "class" / "base-00006.txt").write_text("by hand")
    kept = (tmp_path / "class" / "base-00005.png").stat().st_mtime_ns
    load(config, pipe)
    again = contents(tmp_path / "class")
    assert again.pop("base-00006.txt") == b"by hand"
    assert again == {name: content for name, content in first.items() if name != "base-00006.txt"}
    assert (tmp_path / "class" / "base-00005.png").stat().st_mtime_ns == kept
    monkeypatch.setattr(sampling, "write_png", None)  # nothing is left to draw
    load(config, pipe)


def test_images_in_the_folder_count_whoever_made_them(pipe: Pipeline, config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "class" / "photographs").mkdir(parents=True)
    mine = [tmp_path / "class" / "mine.png", tmp_path / "class" / "photographs" / "mine.jpg"]
    for path in mine:
        Image.new("RGB", (32, 32), "red").save(path)
    data, _ = load(config, pipe)
    made = [tmp_path / "class" / f"base-00005{ending}" for ending in (".png", ".txt")]
    assert sorted(path for path in (tmp_path / "class").rglob("*.*")) == sorted([*mine, *made])
    assert [example.caption for example in data.examples if example.regularisation] == ["a fox"] * 3


def test_images_are_made_and_captioned_as_they_are_trained(pipe: Pipeline, two_images: Path, tmp_path: Path) -> None:
    sets = "data.caption=ink", "data.caption_extension=.caption", "regularisation.generate=1"
    for skip in (1, 2):
        config = drawing(two_images, tmp_path / str(skip), f"training.clip_skip={skip}", *sets)
        load(config, pipe)
    first, second = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert set(first) == set(second) == {"base-00005.png", "base-00005.caption"}
    assert read_rgb(tmp_path / "1" / "base-00005.png") != read_rgb(tmp_path / "2" / "base-00005.png")
    with pytest.raises(BwlabError, match=r"base-00005\.png: its clip_skip is 1, not 2"):
        load(drawing(two_images, tmp_path / "1", "training.clip_skip=2", *sets), pipe)


def test_images_of_another_recipe_are_refused(
    pipe: Pipeline, config: TrainConfig, two_images: Path, tmp_path: Path
) -> None:
    load(config, pipe)
    other = drawing(two_images, tmp_path / "class", "regularisation.prompt=an owl")
    with pytest.raises(BwlabError, match=r"base-00005\.png: its prompt is 'a fox', not 'an owl'. Choose another"):
        load(other, pipe)


@pytest.mark.parametrize("missing", ["folder", "prompt"])
def test_generation_needs_a_folder_and_a_prompt(pipe: Pipeline, two_images: Path, missing: str) -> None:
    other = {"folder": "regularisation.prompt=a", "prompt": "regularisation.folder=b"}[missing]
    with pytest.raises(BwlabError, match=f"regularisation.generate = 3: no regularisation.{missing} is given"):
        load(settings(two_images, "regularisation.generate=3", other), pipe)
