"""The plugins of files, and small models."""

from __future__ import annotations

from tests.adapters.conftest import scheme, unet
from tests.formats.conftest import manager, sdxl_unet

__all__ = ["manager", "scheme", "sdxl_unet", "unet"]
