"""Small data folders, as the tests of training have them."""

from tests.training.conftest import own_cache, two_images, write_data

__all__ = ["own_cache", "two_images", "write_data"]
