"""Names in reports for what is no block, and no single timestep."""

from __future__ import annotations

from typing import TypeAlias

PREDICTION = "prediction"
"""The UNet's output, beside the outputs of its blocks."""
ALL_TIMES = "all"
"""Every timestep together."""

Place: TypeAlias = tuple[str, int | str]
"""A block (or `PREDICTION`) at a timestep (or over `ALL_TIMES`)."""
