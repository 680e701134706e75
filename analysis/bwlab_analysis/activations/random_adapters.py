"""The random null of every measure in a base: adapters of the same layers, ranks and norms with random directions.

The null of measures of weights is exact and needs no draws: see `bwlab_analysis.weights.null_distribution`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.layer import AdapterLayer, BaseLayer
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.adapters.modules import adapted_by_path
from bwlab.blocks.paths import in_unet
from bwlab_analysis.activations.batched_denoiser import adapted_blocks
from bwlab_analysis.measures import Measured

RANK = 16  # rank of a random delta that replaces one without low-rank factors


def random_adapters(adapter: Adapter, unet: nn.Module, draws: int, seed: int) -> list[Adapter]:
    """Return `draws` random adapters like the given one, with seeds from `seed` on; none if it has no UNet layer."""
    if not adapted_blocks(adapter):
        return []
    return [random_adapter_like(adapter, unet, seed + draw) for draw in range(draws)]


def random_adapter_like(adapter: Adapter, unet: nn.Module, seed: int) -> Adapter:
    """Return an adapter whose deltas are random, each of the rank and Frobenius norm of the given adapter's.

    Both factors are Gaussian, so that the delta's directions are uniform. A delta without low-rank factors is replaced
    by one of rank 16. Layers in text encoders, and layers other than Linear and Conv2d (norms), are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    bases = adapted_by_path(unet)
    layers: dict[str, AdapterLayer] = {}
    for path, layer in adapter.only(in_unet).layers.items():
        base = bases[path]
        if isinstance(base, nn.Linear | nn.Conv2d):
            layers[path] = _random_layer(layer, base, generator)
    return Adapter(f"random like {adapter.name}", "lora", layers, adapter.scheme).eval()


def beside_random(value: float, random_values: Sequence[float]) -> Measured:
    """Return a number beside the mean of random adapters' numbers, with their spread if there are two or more."""
    mean = statistics.fmean(random_values) if random_values else None
    return Measured(value, mean, statistics.stdev(random_values) if len(random_values) > 1 else None)


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
    norm = ((columns.T @ columns) * (rows @ rows.T)).sum().sqrt()
    up *= delta_norm(layer, base) / float(norm)
    return LowRankLayer(base, down.to(base.weight), up.to(base.weight), float(rank))
