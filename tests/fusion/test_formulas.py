"""Fusion methods against slow, direct computations of their papers' formulas, on layers with prime dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bwlab.adapters.attach import ScaledLayer
from bwlab.adapters.frozen import FrozenDeltaLayer
from bwlab.adapters.layer import BaseLayer
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.fusion.builtin import FUSIONS
from bwlab.fusion.features import divergence, furthest_part
from bwlab.fusion.method import FusionPlan, SamplingStep
from bwlab.linalg.sparse_merges import dare, module_generator, ties

TYPES = {fusion_type.name: fusion_type for fusion_type in FUSIONS}
BASES: dict[str, BaseLayer] = {
    "linear": nn.Linear(7, 11),
    "conv": nn.Conv2d(5, 13, 3),
    "small": nn.Linear(2, 3),
}
RANKS = (2, 3)
STEPS = 20
Layers = dict[str, list[ScaledLayer]]


def delta(layer: LowRankLayer) -> Tensor:
    """Return up @ down, multiplied out."""
    return (layer.up.flatten(1) @ layer.down.flatten(1)).detach() * layer.alpha / layer.rank


def two_adapters(style: float = 1.0, scale: float = 1.0) -> Layers:
    """Return two adapters of ranks 2 and 3 on all layers; `style` multiplies the numbers of the second one."""
    generator = torch.Generator().manual_seed(4)
    layers: Layers = {}
    for path, base in BASES.items():
        out, *inner = base.weight.shape
        for number, rank in enumerate(RANKS):
            down = torch.randn(rank, *inner, generator=generator)
            up = torch.randn(out, rank, *(1 for _ in inner[1:]), generator=generator) * (style if number else 1.0)
            own = ScaledLayer(LowRankLayer(base, down, up, 1.5), scale if number else 1.0, number)
            layers.setdefault(path, []).append(own)
    return layers


def plan(text: str, layers: Layers, **options: object) -> FusionPlan:
    return TYPES[text].with_options(options).plan(layers, BASES)


def chosen(plan: FusionPlan, step: int) -> dict[str, int]:
    """Return the number of the adapter that acts alone in each layer."""
    (layers,) = plan.passes(SamplingStep(step, STEPS))
    return {path: one.adapter for path, (one,) in layers.items()}


def top(matrix: Tensor, count: int) -> float:
    return float(sum(sorted(matrix.abs().flatten().tolist(), reverse=True)[:count]))


@pytest.mark.parametrize(("style", "scale"), [(1.0, 1.0), (0.2, 1.0), (1.0, -0.4)])
@pytest.mark.parametrize("balance", [True, False])
def test_k_lora_selects_by_the_papers_formula(style: float, scale: float, balance: bool) -> None:
    layers = two_adapters(style, scale)
    deltas = {path: [delta(one.layer) * one.scale for one in own] for path, own in layers.items()}  # type: ignore[arg-type]
    gamma = np.mean([float(c.abs().sum() / s.abs().sum()) for c, s in deltas.values()]) if balance else 1.0
    acting = plan("k-lora", layers, balance=balance)
    seen = set()
    for step in range(STEPS):
        ramp = 1.5 * step / STEPS + 0.5
        expected = {
            path: 0 if top(c, 2 * 3) / gamma / (top(s, 2 * 3) * ramp) > 1 else 1 for path, (c, s) in deltas.items()
        }
        assert chosen(acting, step) == expected
        seen |= set(expected.items())
    assert len(seen) > len(layers) or not balance  # the choice changes over the steps somewhere


def test_k_lora_takes_k_alpha_and_beta() -> None:
    layers = two_adapters()
    deltas = {path: [delta(one.layer) for one in own] for path, own in layers.items()}  # type: ignore[arg-type]
    acting = plan("k-lora", layers, k=4, alpha=3, beta=0.1, balance=False)
    for step in (0, 7, 19):
        ramp = 3 * step / STEPS + 0.1
        expected = {path: 0 if top(c, 4) > top(s, 4) * ramp else 1 for path, (c, s) in deltas.items()}
        assert chosen(acting, step) == expected


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.9])
def test_est_lora_selects_by_energy(similarity: float) -> None:
    layers = two_adapters(style=0.6)
    deltas = {path: [delta(one.layer) for one in own] for path, own in layers.items()}  # type: ignore[arg-type]
    gamma = np.mean([float(c.abs().sum() / s.abs().sum()) for c, s in deltas.values()])
    acting = plan("est-lora", layers, similarity=similarity)
    for step in range(STEPS):
        ramp = 1.5 * step / STEPS + 1 - similarity
        expected = {
            path: 0 if float(c.norm() ** 2) / gamma > float(s.norm() ** 2) * ramp else 1
            for path, (c, s) in deltas.items()
        }
        assert chosen(acting, step) == expected


def test_a_layer_of_one_adapter_alone_keeps_it() -> None:
    layers = two_adapters()
    layers["linear"], layers["conv"] = layers["linear"][:1], layers["conv"][1:]
    for name in ("k-lora", "est-lora"):
        for step in (0, 19):
            picked = chosen(plan(name, layers), step)
            assert (picked["linear"], picked["conv"]) == (0, 1)


def test_content_acts_first_and_style_last() -> None:
    acting = plan("k-lora", two_adapters(), beta=0.01, alpha=100)
    assert set(chosen(acting, 0).values()) == {0}
    assert set(chosen(acting, 19).values()) == {1}


@pytest.mark.parametrize("steps", [1, 5, 7])
def test_switch_is_the_papers_schedule(steps: int) -> None:
    layers = two_adapters()
    third = [ScaledLayer(own[0].layer, 0.5, 2) for own in layers.values()]
    three = {path: [*own, one] for (path, own), one in zip(layers.items(), third, strict=True)}
    acting = plan("switch", three, steps=steps)
    for step in range(STEPS):
        t = step + 1  # the paper counts from 1
        expected = ((t - 1) % (3 * steps)) // steps
        assert set(chosen(acting, step).values()) == {expected}


@pytest.mark.parametrize("shape", [(11, 5, 7), (11, 7), (11, 7, 5, 2)])
def test_the_adapter_with_the_larger_kl_divergence_acts(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    output = torch.randn(shape, generator=generator)
    parts = [torch.randn(shape, generator=generator) * factor for factor in (1.0, 1.1)]
    values = [[direct_kl(output[row], (output + part)[row], len(shape)) for part in parts] for row in range(11)]
    assert np.allclose(
        np.array(values).T, torch.stack([divergence(output, output + part) for part in parts]), rtol=1e-4
    )
    picked = furthest_part("path", output, parts)
    for row, own in enumerate(values):
        assert torch.equal(picked[row], parts[int(np.argmax(own))][row])
    assert len({int(np.argmax(own)) for own in values}) == 2  # the samples choose apart


def direct_kl(features: Tensor, moved: Tensor, dimensions: int) -> float:
    """Return the mean over positions of sum(p log(p / q)), with p and q softmax over channels."""
    rows = [x.double().numpy() for x in (features, moved)]
    if dimensions == 4:
        rows = [np.moveaxis(x, 0, -1) for x in rows]
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in rows)
    return float((p * np.log(p / q)).sum(-1).mean())


def test_kl_ignores_an_adapter_that_is_off_for_a_sample() -> None:
    output = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))
    part = torch.ones(2, 3, 7) * torch.arange(7.0)
    off = part.clone()
    off[0] = 0
    assert torch.equal(furthest_part("path", output, [off, 0.5 * part])[0], 0.5 * part[0])


@pytest.mark.parametrize("name", ["ties", "dare"])
@pytest.mark.parametrize("density", [0.1, 0.7])
def test_merges_are_those_of_the_dense_deltas(name: str, density: float) -> None:
    layers = two_adapters(scale=-0.7)
    (merged,) = plan(name, layers, density=density).passes(SamplingStep(0, 1))
    for path, own in layers.items():
        dense = [delta(one.layer).double().numpy() * one.scale for one in own]  # type: ignore[arg-type]
        generators = [module_generator(0, number, path) for number in range(2)]
        if name == "ties":
            expected = ties(dense, density)
        else:
            expected = np.sum(
                [dare(one, density, generator) for one, generator in zip(dense, generators, strict=True)], axis=0
            )
        (layer,) = merged[path]
        assert isinstance(layer.layer, FrozenDeltaLayer)
        assert layer.scale == 1.0
        assert np.allclose(layer.layer.weight.flatten(1).numpy(), expected, atol=1e-5)


def test_dare_has_a_seed() -> None:
    weights = []
    for seed in (0, 0, 3):
        (merged,) = plan("dare", two_adapters(), seed=seed).passes(SamplingStep(0, 1))
        weights.append(merged["linear"][0].layer.delta())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_changes_of_a_bias_are_added() -> None:
    base = BASES["linear"]
    bias = [torch.full((11,), value) for value in (1.0, 3.0)]
    own: Sequence[ScaledLayer] = [
        ScaledLayer(FrozenDeltaLayer(base, torch.randn(11, 7), one), scale, number)
        for number, (one, scale) in enumerate(zip(bias, (1.0, 0.5), strict=True))
    ]
    (merged,) = plan("ties", {"linear": list(own)}).passes(SamplingStep(0, 1))
    layer = merged["linear"][0].layer
    assert isinstance(layer, FrozenDeltaLayer)
    assert layer.bias is not None
    assert layer.bias.tolist() == [2.5] * 11
