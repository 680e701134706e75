"""Small folders of captioned images, and fixtures that write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteData = Callable[[Mapping[str, str | None]], Path]


def write_image(path: Path, seed: int) -> None:
    """Write a 37 x 41 image of two flat colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3), dtype=np.uint8)
    pixels = np.repeat(colours, [17, 24], axis=0)[None].repeat(37, axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep latents and embeddings of all tests in one folder outside the user's cache, and return it."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("BWLAB_CACHE", str(folder))
    return folder


@pytest.fixture
def write_data(tmp_path: Path) -> WriteData:
    """Return a function that writes images and their captions (None: no file) and returns their folder."""

    def write(captions: Mapping[str, str | None]) -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for index, (name, caption) in enumerate(captions.items()):
            write_image(folder / name, index)
            if caption is not None:
                (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def two_images(write_data: WriteData) -> Path:
    """Return a folder of two captioned images."""
    return write_data({"fox.png": "ink, fox", "owl.png": "ink, owl"})


@pytest.fixture
def two_words(write_data: WriteData) -> Path:
    """Return a folder of two captioned images, one of which shows the new word `<fox>`."""
    return write_data({"fox.png": "ink, <fox>", "owl.png": "ink, owl"})
