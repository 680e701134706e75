"""Names in reports: of what is no block, of no single timestep, and of what two adapters do at a place."""

from __future__ import annotations

from typing import TypeAlias

PREDICTION = "prediction"
"""The UNet's output, beside the outputs of its blocks."""
ALL_TIMES = "all"
"""Every timestep together."""

Place: TypeAlias = tuple[str, int | str]
"""A block (or `PREDICTION`) at a timestep (or over `ALL_TIMES`)."""

AT_WORK = {
    "effect_a": "effect of a",
    "effect_b": "effect of b",
    "alignment": "alignment",
    "retention_a": "a kept",
    "retention_b": "b kept",
    "interaction": "interaction",
}
"""What two adapters do to activations: measures, and what reports call them."""
LOSSES = ("pictures", "base", "alone", "both", "harm", "random", "of its gain")
"""Heads of the table of losses."""
