"""The settings of two adapters, and of random ones, that function-space measures compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bwlab.adapters.adapter import Adapter
from bwlab_analysis.gates import Variant
from bwlab_analysis.stages import TEXT

BASE, A, B, BOTH = "base", "a", "b", "both"


@dataclass(frozen=True, eq=False)
class Variants:
    """Named settings of a list of adapters.

    Attributes:
        adapters: a, b, then random ones.
        names: of the variants.
        gates: one variant each.
    """

    adapters: tuple[Adapter, ...]
    names: tuple[str, ...]
    gates: tuple[Variant, ...]

    def index(self, name: str) -> int:
        """Return the place of a variant."""
        return self.names.index(name)

    def only(self, names: Sequence[str]) -> Variants:
        """Return these variants alone, of the same adapters."""
        return Variants(self.adapters, tuple(names), tuple(self.gates[self.index(name)] for name in names))


Group: TypeAlias = tuple[str, ...]
"""Names of variants that are compared with each other."""


def portions(groups: Iterable[Group], most: int) -> list[list[Group]]:
    """Return groups of variants in portions of at most ``most`` variants, or one group, in the groups' order.

    >>> portions([("base", "a"), ("base", "b"), ("c",)], 3)
    [[('base', 'a'), ('base', 'b')], [('c',)]]
    """
    found: list[list[Group]] = []
    for group in groups:
        if found and len({*group, *(name for other in found[-1] for name in other)}) <= most:
            found[-1].append(group)
        else:
            found.append([group])
    return found


def random_name(replaced: str, draw: int, *, alone: bool) -> str:
    """Return the name of the variant in which ``replaced`` (a or b) is a random adapter, alone or with the other."""
    return f"random {replaced} {draw}{'' if alone else ' with the other'}"


def without(adapter: str, block: str, *, alone: bool) -> str:
    """Return the name of the variant in which one block of an adapter is off, alone or beside the other adapter."""
    return f"{adapter} without {block}{'' if alone else ' beside the other'}"


def pair_variants(
    a: Adapter, b: Adapter, random_a: Sequence[Adapter], random_b: Sequence[Adapter], knocked_out: bool
) -> Variants:
    """Return base, a, b and both; each random adapter alone and with the other one; and knock-outs of single blocks.

    Args:
        a, b: the pair.
        random_a: what a is replaced by, for b's null.
        random_b: what b is replaced by, for a's null.
        knocked_out: whether each block of each adapter is also switched off, alone and beside the other.
    """
    adapters = (a, b, *random_a, *random_b)
    chosen: dict[str, dict[int, object]] = {BASE: {}, A: {0: 1.0}, B: {1: 1.0}, BOTH: {0: 1.0, 1: 1.0}}
    for draw in range(len(random_a)):
        place = 2 + draw
        chosen[random_name(A, draw, alone=True)] = {place: 1.0}
        chosen[random_name(A, draw, alone=False)] = {place: 1.0, 1: 1.0}
    for draw in range(len(random_b)):
        place = 2 + len(random_a) + draw
        chosen[random_name(B, draw, alone=True)] = {place: 1.0}
        chosen[random_name(B, draw, alone=False)] = {place: 1.0, 0: 1.0}
    if knocked_out:
        for place, (name, adapter) in enumerate(((A, a), (B, b))):
            for block in blocks_of(adapter):
                off = {"*": 1.0, block: 0.0}
                chosen[without(name, block, alone=True)] = {place: off}
                chosen[without(name, block, alone=False)] = {place: off, 1 - place: 1.0}
    return _variants(adapters, chosen)


def blocks_of(adapter: Adapter) -> tuple[str, ...]:
    """Return the blocks of the UNet that an adapter changes, in the order of its scheme."""
    return tuple(block for block in adapter.blocks() if block != TEXT)


def _variants(adapters: Sequence[Adapter], chosen: dict[str, dict[int, object]]) -> Variants:
    gates = [tuple(on.get(place, 0.0) for place in range(len(adapters))) for on in chosen.values()]
    return Variants(tuple(adapters), tuple(chosen), tuple(gates))  # type: ignore[arg-type]
