"""The settings of two adapters, and of random ones, that function-space measures compare."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.layer import AdapterLayer, BaseLayer
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.adapters.modules import adapted_by_path
from bwlab.blocks.paths import in_unet
from bwlab_analysis.activations.batched_unet import TEXT, Variant
from bwlab_analysis.measures import Measured

BASE, A, B, BOTH = "base", "a", "b", "both"

Group: TypeAlias = tuple[str, ...]
"""Names of variants that are compared with each other."""

RANK = 16  # for deltas that are no low-rank product


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


def portions(groups: Iterable[Group], most: int) -> list[list[Group]]:
    """Return groups of variants in portions of at most `most` variants, or one group, in the groups' order.

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
    """Return the name of the variant in which `replaced` (a or b) is a random adapter, alone or with the other."""
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


def random_like(adapter: Adapter, unet: nn.Module, seed: int) -> Adapter:
    """Return an adapter whose deltas are random, each of the rank and Frobenius norm of the given adapter's.

    Both factors are Gaussian, so that the delta's directions are uniform. Layers in text encoders, and those that are
    no Linear or Conv2d (norms), are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    bases = adapted_by_path(unet)
    layers: dict[str, AdapterLayer] = {}
    for path, layer in adapter.only(in_unet).layers.items():
        base = bases[path]
        if isinstance(base, nn.Linear | nn.Conv2d):
            layers[path] = _random_layer(layer, base, generator)
    return Adapter(f"random like {adapter.name}", "lora", layers, adapter.scheme).eval()


def beside_random(value: float, drawn: Sequence[float]) -> Measured:
    """Return a number beside the mean of what random adapters gave, with its spread where two or more are known."""
    mean = statistics.fmean(drawn) if drawn else None
    return Measured(value, mean, statistics.stdev(drawn) if len(drawn) > 1 else None)


def delta_norm(layer: AdapterLayer, base: BaseLayer) -> float:
    """Return the Frobenius norm of a layer's delta, its scale included."""
    factors = layer.factors()
    return factors.norm() if factors is not None else float(layer.delta(base.weight).double().norm())


def _random_layer(layer: AdapterLayer, base: BaseLayer, generator: torch.Generator) -> LowRankLayer:
    out, *inner = base.weight.shape
    factors = layer.factors()
    rank = min(factors.inner_rank if factors is not None else RANK, out, base.weight[0].numel())
    down = torch.randn(rank, *inner, generator=generator)
    up = torch.randn(out, rank, *(1 for _ in inner[1:]), generator=generator)
    columns, rows = up.flatten(1).double(), down.flatten(1).double()
    drawn = ((columns.T @ columns) * (rows @ rows.T)).sum().sqrt()
    up *= delta_norm(layer, base) / float(drawn)
    return LowRankLayer(base, down.to(base.weight), up.to(base.weight), float(rank))
