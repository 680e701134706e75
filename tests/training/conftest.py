"""Small data folders to train on, and signals as the system handles them."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.dataset.small_data import own_cache, two_images, two_words, write_data

__all__ = ["own_cache", "two_images", "two_words", "write_data"]


@pytest.fixture
def unhandled() -> Iterator[None]:
    """Leave SIGTERM to the system, as for a program of a shell; a process of pytest-xdist handles it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)
