"""Block-wise adapters for diffusion models: train, look inside, score, generate."""

from __future__ import annotations

__version__ = "0.1.0"
