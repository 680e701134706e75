"""Small bases of every published family, and their single files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.base import load
from bwlab.base.architectures import PUBLISHED
from bwlab.base.header import FAMILIES
from tests.base.checkpoints import WIDTHS, random_pipeline, small, write_checkpoint
from tests.loads import Loads


@pytest.fixture(autouse=True)
def _files_are_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test loading itself, not copies of what was loaded before."""
    kept = load.load_folder
    assert isinstance(kept, Loads)
    monkeypatch.setattr(load, "load_folder", kept.load)


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a small checkpoint of each family; `random_pipeline` gives the pipelines that were written."""
    folder = tmp_path_factory.mktemp("checkpoints")
    metadata = {"modelspec.prediction_type": "epsilon"}
    return {
        family: write_checkpoint(
            folder / f"{family}.safetensors", random_pipeline(small(family)), family, metadata=metadata
        )
        for family in PUBLISHED
    }


@pytest.fixture
def small_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small architectures stand for the published ones."""
    for family, width in WIDTHS.items():
        monkeypatch.setitem(FAMILIES, width, family)
        monkeypatch.setitem(PUBLISHED, family, small(family))
