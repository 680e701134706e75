"""What low-rank approximations cost: module by module, and summed over blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bwlab.blocks.naming import BlockScheme
from bwlab.truncation import kept_share, relative_error


@dataclass(frozen=True)
class Fit:
    """How well one module's delta is approximated.

    Attributes:
        path: of the module.
        before: rank that an exact low-rank form takes; None if it was taken from a dense delta.
        after: rank of the approximation; 0 where the delta was zero and the module is left out.
        energy: squared Frobenius norm of the delta.
        lost: squared Frobenius norm of the error.
    """

    path: str
    before: int | None
    after: int
    energy: float
    lost: float


@dataclass(frozen=True)
class FitRow:
    """The approximations of a block, or of all.

    Attributes:
        name: of the block.
        modules: how many.
        before: lowest and highest rank before; None if all were dense.
        after: lowest and highest rank after.
        kept: share of the energy, 0..1.
        error: relative error in the Frobenius norm, 0..1.
    """

    name: str
    modules: int
    before: tuple[int, int] | None
    after: tuple[int, int]
    kept: float
    error: float


def fit_rows(fits: Sequence[Fit], scheme: BlockScheme) -> list[FitRow]:
    """A row for each block with approximations, in the scheme's order, and a last one, `all`, for the whole."""
    rows = []
    for block in scheme.blocks():
        inside = [fit for fit in fits if scheme.block_of(fit.path) == block]
        if inside:
            rows.append(fit_row(block, inside))
    return [*rows, fit_row("all", fits)]


def fit_row(name: str, fits: Iterable[Fit]) -> FitRow:
    """The row of at least one approximation."""
    listed = list(fits)
    before = [fit.before for fit in listed if fit.before is not None]
    after = [fit.after for fit in listed]
    energy, lost = sum(fit.energy for fit in listed), sum(fit.lost for fit in listed)
    return FitRow(
        name=name,
        modules=len(listed),
        before=(min(before), max(before)) if before else None,
        after=(min(after), max(after)),
        kept=kept_share(energy, lost),
        error=relative_error(energy, lost),
    )
