"""The ortho layer: its contract, exactness through training, files, and going on from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import bwlab_locon.plugin
import bwlab_ortho.plugin
from bwlab.adapters.layer import BaseLayer
from bwlab.adapters.load import load_adapter
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.adapters.save import save_adapter
from bwlab.errors import BwlabError
from bwlab.plugins.manager import build_manager
from bwlab.testing import AdapterContract, skipped_shapes
from bwlab.testing.bench import SCHEME, bench_for
from bwlab_ortho.layer import OrthoLayer, Spaces

ORTHO = bwlab_ortho.plugin.bwlab_register_adapters()[0]
MAKE: dict[str, Callable[[], BaseLayer]] = {
    "linear": lambda: nn.Linear(37, 53),
    "conv": lambda: nn.Conv2d(11, 43, 3, padding=1),
    "conv1x1": lambda: nn.Conv2d(41, 23, 1),
}


class TestOrtho(AdapterContract):
    """The shared contract."""

    adapter_type = ORTHO


def test_it_adapts_all_that_locon_does() -> None:
    assert skipped_shapes(ORTHO) == ()
    locon = bwlab_locon.plugin.bwlab_register_adapters()[0]
    assert (ORTHO.leaves, ORTHO.targets) == (locon.leaves, locon.targets)


def layer_of(kind: str, rank: int = 5, alpha: float = 2.5, seed: int = 0) -> tuple[BaseLayer, OrthoLayer]:
    """Return a frozen base layer and a fresh ortho layer on it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = MAKE[kind]().requires_grad_(False)
    return base, OrthoLayer.create(base, rank, alpha, torch.Generator().manual_seed(seed))


def train(base: BaseLayer, layer: OrthoLayer, steps: int, autocast: bool = False) -> tuple[float, float]:
    """Fit a random change of the base's output with AdamW; the first and last losses."""
    generator = torch.Generator().manual_seed(1)
    shape = (9, base.weight.shape[1]) if isinstance(base, nn.Linear) else (3, base.weight.shape[1], 5, 5)
    x = torch.randn(shape, generator=generator)
    wanted = base(x) + torch.randn(base(x).shape, generator=generator)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = base(x)
            loss = (layer.add_to(output, x, output, 1.0).float() - wanted).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


@pytest.mark.parametrize(
    ("kind", "autocast"), [*((kind, True) for kind in MAKE), ("conv", False)], ids=[*MAKE, "conv in float32"]
)
def test_factors_are_orthonormal_after_1000_steps_of_adamw(kind: str, autocast: bool) -> None:
    base, layer = layer_of(kind)
    before = [b.clone() for b in layer.bases()]
    first, last = train(base, layer, 1000, autocast)
    assert last < 0.9 * first
    for start, factor in zip(before, layer.bases(), strict=True):
        assert (factor.T @ factor - torch.eye(5)).abs().max() < 1e-6
        assert (factor - start).norm() > 0.5
    tensors = layer.tensors()
    down, up = tensors["lora_down.weight"].flatten(1), tensors["lora_up.weight"].flatten(1)
    assert (down @ down.T - torch.eye(5)).abs().max() < 1e-6
    gram = up.T @ up
    assert (gram - gram.diagonal().diag()).abs().max() < 1e-5 * gram.max()


def test_in_the_first_step_s_alone_has_a_gradient_and_in_the_second_all() -> None:
    base, layer = layer_of("linear")
    x = torch.randn(7, 37, generator=torch.Generator().manual_seed(2))
    layer(x, base(x)).sum().backward()
    assert layer.values.grad is not None
    assert bool(layer.values.grad.all())
    assert not any(bool(p.grad.any()) for p in (layer.left, layer.right) if p.grad is not None)
    with torch.no_grad():
        layer.values.sub_(0.1 * layer.values.grad)
    layer(x, base(x)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in layer.parameters())


@pytest.mark.parametrize("kind", MAKE)
def test_a_file_holds_the_delta_with_any_alpha(kind: str) -> None:
    base, layer = layer_of(kind)
    train(base, layer, 5)
    for tensors in (layer.tensors(), layer.file_tensors(1.0)):
        plain = OrthoLayer.from_tensors(base, tensors)
        assert isinstance(plain, LowRankLayer)
        torch.testing.assert_close(plain.delta(), layer.delta(), atol=1e-6, rtol=1e-5)
        again = OrthoLayer.from_tensors(base, plain.tensors()).tensors()
        assert all(torch.equal(again[leaf], tensors[leaf]) for leaf in tensors)
    torch.testing.assert_close(
        torch.from_numpy(layer.factors().dense()).float().reshape(layer.weight_shape),
        layer.delta(),
        atol=1e-6,
        rtol=1e-5,
    )


@pytest.mark.parametrize("kind", MAKE)
def test_going_on_from_a_file_keeps_the_delta_and_trains_on_as_ortho(kind: str) -> None:
    base, layer = layer_of(kind)
    train(base, layer, 20)
    _, fresh = layer_of(kind, seed=3)
    started = fresh.started_at(base, layer.file_tensors(4.0))
    torch.testing.assert_close(started.delta(), layer.delta(), atol=1e-5, rtol=1e-4)
    train(base, started, 20)
    for factor in started.bases():
        assert (factor.T @ factor - torch.eye(5)).abs().max() < 1e-6


def test_a_lora_can_be_gone_on_from_too() -> None:
    base, layer = layer_of("linear")
    lora = LowRankLayer.create(base, 5, 2.0, torch.Generator().manual_seed(4))
    nn.init.normal_(lora.up, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(layer.started_at(base, lora.tensors()).delta(), lora.delta(), atol=1e-5, rtol=1e-4)


def test_a_resumed_layer_is_the_same_bit_for_bit() -> None:
    base, layer = layer_of("conv")
    train(base, layer, 5)
    _, other = layer_of("conv", seed=9)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.delta(), layer.delta())


def test_a_step_is_as_large_as_a_lora_s() -> None:
    """Adam moves every number by the rate; the rows behind V are as long as LoRA's down, and s moves as |up| |down|."""
    base, layer = layer_of("linear", rank=16)
    lora = LowRankLayer.create(base, 16, 1.0, torch.Generator().manual_seed(0))
    rows = float(lora.down.detach().norm(dim=1).mean())
    assert float(layer.right.detach().norm(dim=0).mean()) == pytest.approx(rows, rel=0.1)
    with torch.no_grad():
        layer.values.add_(1e-3)
        lora.up.add_(1e-3)
    expected = float(lora.up.detach()[:, 0].norm()) * rows
    assert float(layer.singular_values()[0].detach()) == pytest.approx(expected, rel=0.1)


def spaces(base: BaseLayer, used: int) -> Spaces:
    sides = base.weight.shape[0], math.prod(base.weight.shape[1:])
    generator = torch.Generator().manual_seed(8)
    left, right = (torch.linalg.qr(torch.randn(side, used, generator=generator))[0] for side in sides)
    return Spaces(left, right, "id.safetensors at mid_block")


@pytest.mark.parametrize("kind", MAKE)
def test_it_stays_clear_of_other_spaces_while_it_trains(kind: str) -> None:
    base, _ = layer_of(kind)
    avoid = spaces(base, 7)
    layer = OrthoLayer.create(base, 5, 1.0, torch.Generator().manual_seed(0), avoid=avoid)
    train(base, layer, 100)
    for factor, other in zip(layer.bases(), (avoid.left, avoid.right), strict=True):
        assert (factor.T @ factor - torch.eye(5)).abs().max() < 1e-6
        assert (other.T @ factor).abs().max() < 1e-6
    state = {name for name in layer.state_dict() if name.startswith("avoid")}
    assert state == {"avoid_left", "avoid_right"}
    lora = LowRankLayer.create(base, 5, 2.0, torch.Generator().manual_seed(4))
    nn.init.normal_(lora.up, generator=torch.Generator().manual_seed(5))
    kept = layer.started_at(base, lora.tensors()).factors()
    inner = (avoid.left.T.double() @ torch.from_numpy(kept.up)).abs().max()
    assert inner < 1e-6 * abs(kept.up).max()


def test_a_rank_without_room_is_refused() -> None:
    base, _ = layer_of("conv1x1")
    with pytest.raises(BwlabError, match=r"ortho of rank 24 on a weight of 23 x 41: there are only 23 .* at most 23"):
        OrthoLayer.create(base, 24, 1.0, None)
    with pytest.raises(
        BwlabError, match=r"only 13 orthogonal directions of 23 outside the 10 .* id.safetensors at mid"
    ):
        OrthoLayer.create(base, 14, 1.0, None, avoid=spaces(base, 10))
    with pytest.raises(BwlabError, match="Leave that layer out"):
        OrthoLayer.create(base, 1, 1.0, None, avoid=spaces(base, 23))


def test_a_file_of_another_tool_is_not_taken_for_ortho(tmp_path: Path) -> None:
    """It has locon's leaves and layers; only what the file itself says makes it ortho."""
    bench = bench_for(ORTHO)
    manager = build_manager([bwlab_locon.plugin, bwlab_ortho.plugin], installed=False)
    adapter = bench.trained()
    save_adapter(adapter, tmp_path / "ortho.safetensors")
    named = load_adapter(tmp_path / "ortho.safetensors", bench.model, manager, SCHEME)
    tensors = safetensors.torch.load_file(tmp_path / "ortho.safetensors")
    safetensors.torch.save_file(tensors, tmp_path / "foreign.safetensors")
    foreign = load_adapter(tmp_path / "foreign.safetensors", bench.model, manager, SCHEME)
    assert (named.type_name, foreign.type_name) == ("ortho", "locon")
    for (path, one), (_, other) in zip(named.deltas(), foreign.deltas(), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, adapter.layers[path].delta(), atol=1e-5, rtol=1e-4)
