"""Types whose delta depends on the base weight: they act, stack and tell their deltas without owning it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

import bwlab_lora.plugin
from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.types import AdapterType
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.testing import AdapterContract, run_contract
from bwlab.testing.bench import SCHEME, bench_for
from tests.adapters.oft_like import DENSE_OFT_LIKE, OFT_LIKE, OftLike

LORA = bwlab_lora.plugin.bwlab_register_adapters()[0]


class TestOftLike(AdapterContract):
    """Turns the base output."""

    adapter_type = OFT_LIKE


class TestDenseOftLike(AdapterContract):
    """Goes through the dense delta."""

    adapter_type = DENSE_OFT_LIKE


def turned(unet: nn.Module, scheme: BlockScheme, adapter_type: AdapterType = OFT_LIKE) -> Adapter:
    """Adapters on the attention of the middle block, moved from their start."""
    attention = replace(adapter_type, targets=lambda path, kind: "attn1" in path)
    ranks = parse_spec("mid=1", scheme, kind="rank")
    generator = torch.Generator().manual_seed(0)
    adapter = create_adapter(unet, attention, ranks, 1.0, scheme=scheme, generator=generator)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapter


@torch.no_grad()
def outputs(unet: UNet2DConditionModel, *adapters: ScaledAdapter) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    with attach(unet, *adapters):
        sample: Tensor = unet(
            torch.randn(3, 4, 16, 16, generator=generator), 500, torch.randn(3, 5, 24, generator=generator)
        ).sample
    return sample


def test_deltas_are_those_of_the_model_given(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    adapter = turned(unet, scheme)
    twice = UNet2DConditionModel.from_config(unet.config)
    twice.load_state_dict({name: 2 * value for name, value in unet.state_dict().items()})
    doubled = dict(adapter.deltas(twice))
    for path, delta in adapter.deltas(unet):
        weight = unet.get_submodule(path).weight
        # R W keeps the length of every column of W.
        torch.testing.assert_close((weight + delta).norm(dim=0), weight.norm(dim=0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(doubled[path], 2 * delta)


def test_deltas_without_the_model_name_what_is_missing(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    with pytest.raises(BwlabError, match="no base weight was given") as error:
        list(turned(unet, scheme).deltas())
    assert "adapter.deltas(unet)" in error.value.fix


def test_deltas_with_another_model_name_the_layer(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    wide = UNet2DConditionModel.from_config({**unet.config, "block_out_channels": (8, 12, 16, 24)})
    with pytest.raises(BwlabError, match=r"another shape, first mid_block.*attn1"):
        list(turned(unet, scheme).deltas(wide))


def test_adding_the_deltas_to_the_weights_is_attaching(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    adapter = turned(unet, scheme)
    changed = UNet2DConditionModel.from_config(unet.config).eval()
    changed.load_state_dict(unet.state_dict())
    with torch.no_grad():
        for path, delta in adapter.deltas(unet):
            changed.get_submodule(path).weight += delta
    torch.testing.assert_close(outputs(unet, ScaledAdapter(adapter)), outputs(changed), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [OFT_LIKE, DENSE_OFT_LIKE])
def test_it_stacks_with_lora_on_one_layer(kind: AdapterType) -> None:
    bench = bench_for(kind)
    lora_bench = replace(bench, adapter_type=replace(LORA, targets=lambda path, k: k != "conv"))
    oft, lora = bench.trained(1), lora_bench.trained(2)
    assert set(lora.layers) & set(oft.layers)
    base, one, two = bench.base(), bench.adapted(ScaledAdapter(oft)), bench.adapted(ScaledAdapter(lora))
    scales = torch.tensor([0.0, 1.0, -0.5, 0.25])
    both = bench.adapted(ScaledAdapter(oft, {"*": scales}), ScaledAdapter(lora, 0.5))
    swapped = bench.adapted(ScaledAdapter(lora, 0.5), ScaledAdapter(oft, {"*": scales}))
    for b, x, y, z, s in zip(base, one, two, both, swapped, strict=True):
        wide = scales.view(-1, *(1 for _ in b.shape[1:]))
        torch.testing.assert_close(z, b + wide * (x - b) + 0.5 * (y - b), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(s, z, atol=1e-5, rtol=1e-5)


def test_one_adapter_acts_on_two_models_at_once() -> None:
    bench, other = bench_for(OFT_LIKE), bench_for(OFT_LIKE)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(3.0)
    adapter = bench.trained()
    alone = bench.adapted(ScaledAdapter(adapter)), other.adapted(ScaledAdapter(adapter))
    with torch.no_grad(), attach(bench.model, ScaledAdapter(adapter)), attach(other.model, ScaledAdapter(adapter)):
        together = bench.model.forward(bench.inputs), other.model.forward(other.inputs)
    for x, y in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True))


def test_the_base_is_no_part_of_the_adapter() -> None:
    bench = bench_for(OFT_LIKE)
    adapter = bench.trained()
    before = [value.clone() for value in bench.model.parameters()]
    with attach(bench.model, ScaledAdapter(adapter)):
        adapter.to(dtype=torch.float64)
        assert sum(1 for _ in adapter.parameters()) == len(bench.model.paths)
    assert all(torch.equal(x, y) for x, y in zip(bench.model.parameters(), before, strict=True))


class Owner(OftLike):
    """Registers the layer that it adapts."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, block: Tensor) -> None:
        super().__init__(layer, rank, block)
        self.layer = layer


class Undeclared(OftLike):
    """Needs the weight, and takes a zero for one that is missing."""

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        return super().delta(self.block.new_zeros(self.weight_shape) if base_weight is None else base_weight)


@pytest.mark.parametrize(
    ("layer_class", "clause", "says"),
    [
        (Owner, "base layers are not owned", "layer.weight"),
        (Undeclared, "delta is the weight change", "without the base weight is accepted"),
    ],
)
def test_the_contract_sees_what_is_wrong(layer_class: type[OftLike], clause: str, says: str) -> None:
    results = dict(run_contract(replace(OFT_LIKE, load=lambda: layer_class)))
    assert says in (results[clause] or "")


def test_a_type_that_declares_the_opposite_is_broken() -> None:
    results = dict(run_contract(replace(LORA, needs_base_weight=True)))
    assert any("needs_base_weight" in (error or "") for error in results.values())


def test_options_are_prepared_for_each_layer() -> None:
    """A type may turn what the user gave into something else for each layer."""
    seen: dict[str, object] = {}

    class Noted(bwlab_lora.plugin.load()):  # type: ignore[misc]
        @classmethod
        def create(cls, layer, rank, alpha, generator, **options):  # type: ignore[no-untyped-def]
            seen[f"{tuple(layer.weight.shape)}"] = options
            return super().create(layer, rank, alpha, generator)

    def prepare(options: object, layers: object) -> dict[str, dict[str, object]]:
        assert isinstance(layers, dict)
        return {path: {"columns": layer.weight.shape[1]} for path, layer in layers.items() if "attn1" in path}

    bench = bench_for(LORA)
    kind = replace(LORA, load=lambda: Noted, options=("seed",), prepare=prepare)
    ranks = parse_spec("*=2", SCHEME, kind="rank")
    create_adapter(bench.model, kind, ranks, 1.0, scheme=SCHEME, options={"seed": 3})
    assert seen == {"(11, 7)": {"columns": 7}, "(10, 6, 1, 1)": {}}
    with pytest.raises(BwlabError, match="option sed: it has no such option"):
        create_adapter(bench.model, kind, ranks, 1.0, scheme=SCHEME, options={"sed": 3})
