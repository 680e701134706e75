"""The two schemes, and that of the embedded base with its one layer per block."""

from __future__ import annotations

import pytest

from bwlab.blocks.configs import SD14, SDXL
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme


@pytest.fixture(scope="session")
def sd() -> BlockScheme:
    """Return the scheme of SD 1.4."""
    return scheme_for(SD14)


@pytest.fixture(scope="session")
def sdxl() -> BlockScheme:
    """Return the scheme of SDXL."""
    return scheme_for(SDXL)


@pytest.fixture(scope="session")
def single() -> BlockScheme:
    """Return the scheme of a UNet like SD 1.4's with one layer per block."""
    return scheme_for({**SD14, "layers_per_block": 1})
