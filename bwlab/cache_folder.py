"""Where bwlab keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for downloads and caches: the one that ``BWLAB_CACHE`` names, or ``~/.cache/bwlab``."""
    chosen = os.environ.get("BWLAB_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "bwlab"
