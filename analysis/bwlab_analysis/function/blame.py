"""Which block of which adapter stands in the other's way, in shares of the adapters' own effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bwlab_analysis.function.losses import LossReport


@dataclass(frozen=True)
class BlockBlame:
    """What switching one block of one adapter off does, both adapters being on.

    Attributes:
        adapter: ``"a"`` or ``"b"``: whose block it is.
        block: the block.
        gain: what the other adapter gets back, as a share of its effect alone; below 0 if it loses.
        loss: what its own adapter loses, likewise; None where that was not measured.
    """

    adapter: str
    block: str
    gain: float
    loss: float | None


def worst_first(blame: Sequence[BlockBlame]) -> tuple[BlockBlame, ...]:
    """Return blame by what the other adapter gets back, the most first."""
    return tuple(sorted(blame, key=lambda one: -one.gain))


def blame_of_losses(reports: Sequence[LossReport]) -> tuple[BlockBlame, ...]:
    """Return the blame of each block from losses on the adapters' own pictures, worst first.

    An adapter's effect is by how much it lowers the loss on its own pictures; one that does not lower it says nothing.

    Args:
        reports: of a's pictures, of b's, or of both.
    """
    effects = {report.adapter: report.base.value - report.own.value for report in reports}
    needs = {
        (report.adapter, one.block): one.change.value / effects[report.adapter]
        for report in reports
        for one in report.need
        if effects[report.adapter] > 0
    }
    blame = []
    for report in reports:
        other = "b" if report.adapter == "a" else "a"
        if effects[report.adapter] > 0:
            for one in report.blame:
                gain = one.change.value / effects[report.adapter]
                blame.append(BlockBlame(other, one.block, gain, needs.get((other, one.block))))
    return worst_first(blame)
