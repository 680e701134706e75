"""`add_to` of low-rank layers, the fast road, against the plain formula in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bwlab.adapters.attach import ScaledLayer, hook_layers
from bwlab.adapters.layer import BaseLayer
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.errors import BwlabError

LAYERS: dict[str, tuple[Callable[[], BaseLayer], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 11), (2, 3, 5, 7)),
    "conv1x1": (lambda: nn.Conv2d(5, 13, 1), (3, 5, 7, 11)),
    "conv1x1 with a stride": (lambda: nn.Conv2d(5, 13, 1, stride=2), (3, 5, 7, 11)),
    "conv": (lambda: nn.Conv2d(5, 13, 3, padding=1), (3, 5, 7, 11)),
    "conv with a stride": (lambda: nn.Conv2d(5, 13, 3, stride=2, padding=(2, 1)), (3, 5, 7, 11)),
    "conv, same": (lambda: nn.Conv2d(5, 13, 3, padding="same", dilation=2), (3, 5, 7, 11)),
}


def made(kind: str, *, small: bool = False) -> tuple[BaseLayer, LowRankLayer, Tensor]:
    """Return a frozen base layer, an adapter with random factors at scale 1.5 / 3, and an input, in float64."""
    make, shape = LAYERS[kind]
    shape = (2, *shape[1:2], 3, 5) if small else shape
    generator = torch.Generator().manual_seed(0)
    base = make().double().requires_grad_(False)
    layer = LowRankLayer.create(base, 3, 1.5, generator).double()
    with torch.no_grad():
        layer.up.copy_(torch.randn(layer.up.shape, generator=generator))
    return base, layer, torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_sum_is_that_of_the_plain_formula(kind: str) -> None:
    base, layer, x = made(kind)
    total = base(x)
    kept = total.clone()
    added = layer.add_to(total, x, total, 0.7)
    assert torch.equal(total, kept)
    torch.testing.assert_close(added, total + 0.7 * layer(x, total), rtol=1e-12, atol=1e-12)


def test_a_file_may_have_an_alpha_below_zero_and_a_new_layer_may_not() -> None:
    """LyCORIS' `use_scalar` multiplies the delta by a trained number of either sign."""
    base, layer, _ = made("linear")
    turned = LowRankLayer.from_tensors(base, {**layer.tensors(), "alpha": torch.tensor(-1.5)})
    torch.testing.assert_close(turned.delta(), -layer.delta())
    for alpha in (0.0, float("nan"), float("inf")):
        with pytest.raises(BwlabError, match="it is 0 or not finite"):
            LowRankLayer.from_tensors(base, {**layer.tensors(), "alpha": torch.tensor(alpha)})
    with pytest.raises(BwlabError, match="Give alpha > 0"):
        LowRankLayer.create(base, 3, -1.5, None)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_gradients_are_right(kind: str) -> None:
    base, layer, x = made(kind, small="conv" in kind)

    def run(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        parameters = {"down": down, "up": up}
        named = {f"layer.{name}": value for name, value in parameters.items()}
        added: Tensor = torch.func.functional_call(_AddTo(layer, base), named, (x,))
        return added

    factors = [layer.down.detach().requires_grad_(), layer.up.detach().requires_grad_()]
    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *factors))


class _AddTo(nn.Module):
    def __init__(self, layer: LowRankLayer, base: BaseLayer) -> None:
        super().__init__()
        self.layer, self._base = layer, [base]

    def forward(self, x: Tensor) -> Tensor:
        total = self._base[0](x)
        return self.layer.add_to(total, x, total, 0.7)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_float32_adapter_on_a_half_precision_base_computes_in_float32(kind: str) -> None:
    base, layer, x = made(kind)
    base.bfloat16()
    layer.float()
    half = x.bfloat16()
    with torch.no_grad():
        total = base(half)
        plain = (layer(half.float(), total) * 0.7).bfloat16()
        assert torch.equal(layer.add_to(total, half.float(), total, 0.7), total + plain)


def test_a_type_with_a_formula_of_its_own_keeps_it() -> None:
    class Doubled(LowRankLayer):
        def forward(self, x: Tensor, base_output: Tensor) -> Tensor:
            return 2 * super().forward(x, base_output)

    base, layer, x = made("linear")
    doubled = Doubled(base, layer.down.detach(), layer.up.detach(), layer.alpha).double()
    total = base(x)
    torch.testing.assert_close(doubled.add_to(total, x, total, 1.0), total + 2 * layer(x, total))


def test_only_the_shared_input_and_small_tensors_are_kept() -> None:
    base, layer, x = made("linear")
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
            sizes.append(tensor.numel())
        return tensor

    handles = hook_layers({"layer": [ScaledLayer(layer, 0.7), ScaledLayer(layer, -1.0)]}, {"layer": base})
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = base(x)
    for handle in handles:
        handle.remove()
    assert max(sizes) < output.numel() // 2
