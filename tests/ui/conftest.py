"""Two adapters of the tiny base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bwlab_ui.mixer import Mixer
from tests.analysis.study.finished import clip as clip  # a fixture
from tests.options.made import adapters
from tests.ui.served import mixing, offered


@pytest.fixture(scope="session")
def folder(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the adapters fox (all blocks), ink (the last block) and words (text encoder too)."""
    folder = tmp_path_factory.mktemp("loras")
    adapters(folder, tiny_pipeline, fox="all=2", ink="out3=2, mid=2", words="te=2, mid=2")
    return folder


@pytest.fixture(scope="session")
def files(folder: Path) -> tuple[Path, Path]:
    """Return the files of fox and ink."""
    return folder / "fox.safetensors", folder / "ink.safetensors"


@pytest.fixture(scope="module")
def mixer(tiny_pipeline: Path, folder: Path, files: tuple[Path, Path]) -> Iterator[Mixer]:
    """Return a mixer of the tiny base with fox and ink open."""
    with mixing(offered(tiny_pipeline, files, folder=folder, most_upload=10_000_000)) as made:
        yield made
