"""Small bases of every published family, and their single files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.base.architectures import PUBLISHED
from bwlab.base.header import FAMILIES
from tests.base.checkpoints import WIDTHS, random_pipeline, small, write_checkpoint


@pytest.fixture(autouse=True)
def _loading_itself_is_tested(pipelines_are_read: None) -> None:
    """Make no copies of what was loaded before."""


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
