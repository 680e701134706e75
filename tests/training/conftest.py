"""Small data folders to train on."""

from __future__ import annotations

from tests.dataset.small_data import own_cache, two_images, two_words, write_data

__all__ = ["own_cache", "two_images", "two_words", "write_data"]
