"""An adapter in use: which one, how strongly in each block, and when during sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from bwlab.adapters.adapter import Adapter, Attached
    from bwlab.adapters.scales import Scale
    from bwlab.composition.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Use:
    """One adapter of a composition.

    Attributes:
        adapter: a file, or an adapter that is loaded already.
        scale: a number; a block spec as text (`"*=0, upper=1"`, blocks that it does not name keep 1) or parsed; a
            tensor `(batch,)` with one number per sample; or a mapping from block to a number or such a tensor.
        schedule: factors of the scale over the sampling, `"0-0.4:1, 0.4-1:0.3"`; None: always 1. Layers of text
            encoders keep their scale throughout, for a prompt is read once, before sampling begins.
    """

    adapter: str | Path | Adapter
    scale: str | Scale = 1.0
    schedule: str | float | Schedule | None = None


Usable: TypeAlias = "Use | Attached | Adapter | str | Path"
