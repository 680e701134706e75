"""The files that options are given: adapters, images, captions and models, small and with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.analysis.study.finished import clip as clip  # a fixture
from tests.options.rows import Runner


@pytest.fixture(scope="module")
def runner(
    tiny_pipeline: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Runner]:
    """Return a runner whose world a module's function `world(folder, tiny)` has made."""
    folder = tmp_path_factory.mktemp("world")
    calls = tmp_path_factory.mktemp("calls")
    world = {"tiny": tiny_pipeline, "clip": clip, **request.module.world(folder, tiny_pipeline)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BWLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Runner(world, calls)
