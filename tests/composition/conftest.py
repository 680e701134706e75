"""Small bases of both families."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bwlab.plugins import PluginManager, build_manager

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline


@pytest.fixture(scope="session")
def manager() -> PluginManager:
    """Return the manager of the installed plugins."""
    return build_manager()


@pytest.fixture(scope="session")
def pipe(tiny_pipeline: Path) -> Pipeline:
    """Return the tiny base; tests must leave it as it is."""
    from bwlab.pipelines import load_base

    return load_base(tiny_pipeline)


@pytest.fixture(scope="session")
def xl_pipe(tiny_xl_pipeline: Path) -> Pipeline:
    """Return the tiny SDXL base; tests must leave it as it is."""
    from bwlab.pipelines import load_base

    return load_base(tiny_xl_pipeline)
