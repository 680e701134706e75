"""The compositions whose fidelity is measured: each adapter alone, both, and single blocks knocked in and out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import Scale, ScaledAdapter

BASE, IDENTITY, STYLE, BOTH = "base", "identity alone", "style alone", "both"


@dataclass(frozen=True)
class Condition:
    """A composition: the scales of the two adapters.

    Attributes:
        name: name in tables.
        identity, style: scales of the identity and of the style adapter.
        block: adapter (`"identity"` or `"style"`) and block that is knocked in or out; None in other compositions.
        knocked: `"in"`, `"out"` or None.
        schedules: schedule of the identity adapter and of the style adapter; empty: none.

    """

    name: str
    identity: Scale
    style: Scale
    block: tuple[str, str] | None = None
    knocked: Literal["in", "out"] | None = None
    schedules: tuple[str, str] = ("", "")

    def uses(self, identity: Adapter, style: Adapter) -> list[ScaledAdapter]:
        """Return the adapters as `bwlab.generation.sample.generate` takes them."""
        scales, schedules = (self.identity, self.style), self.schedules
        return [
            ScaledAdapter(adapter, scale, schedule or None)
            for adapter, scale, schedule in zip((identity, style), scales, schedules, strict=True)
        ]


def four_conditions() -> tuple[Condition, ...]:
    """Return the base, each adapter alone, and both."""
    return (
        Condition(BASE, 0.0, 0.0),
        Condition(IDENTITY, 1.0, 0.0),
        Condition(STYLE, 0.0, 1.0),
        Condition(BOTH, 1.0, 1.0),
    )


def knock_ins(identity: Adapter, style: Adapter) -> Iterator[Condition]:
    """Yield a composition for each block of each adapter in which only this block acts."""
    for block in identity.blocks():
        yield Condition(f"identity in {block} only", {"*": 0.0, block: 1.0}, 0.0, ("identity", block), "in")
    for block in style.blocks():
        yield Condition(f"style in {block} only", 0.0, {"*": 0.0, block: 1.0}, ("style", block), "in")


def knock_outs(identity: Adapter, style: Adapter) -> Iterator[Condition]:
    """Yield a composition for each block of each adapter in which all blocks but this one act."""
    for block in identity.blocks():
        yield Condition(f"both, identity off in {block}", {"*": 1.0, block: 0.0}, 1.0, ("identity", block), "out")
    for block in style.blocks():
        yield Condition(f"both, style off in {block}", 1.0, {"*": 1.0, block: 0.0}, ("style", block), "out")
