"""Which layers get an adapter, and what a new one is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

import bwlab_locon.plugin
import bwlab_lora.plugin
from bwlab.adapters.adapter import create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError

LORA = bwlab_lora.plugin.bwlab_register_adapters()[0]
LOCON = bwlab_locon.plugin.bwlab_register_adapters()[0]


def test_each_block_has_its_rank_and_alpha_follows_it(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    adapter = create_adapter(unet, LOCON, parse_spec("upper=4, mid=2", scheme, kind="rank"), None, scheme=scheme)
    ranks = {(scheme.block_of(path), layer.rank) for path, layer in adapter.layers.items()}
    assert ranks == {("in0", 4), ("mid", 2), ("out3", 4)}
    assert list(adapter.blocks()) == ["in0", "mid", "out3"]
    assert all(layer.alpha == layer.rank for layer in adapter.layers.values())


def test_one_seed_gives_one_adapter_and_another_seed_another(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    ranks = parse_spec("mid=2", scheme, kind="rank")

    def down(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        adapter = create_adapter(unet, LORA, ranks, 1.0, scheme=scheme, generator=generator)
        return torch.cat([layer.tensors()["lora_down.weight"].flatten() for layer in adapter.layers.values()])

    assert torch.equal(down(1), down(1))
    assert not torch.equal(down(1), down(2))


def test_down_is_kaiming_uniform_and_up_zero() -> None:
    layer = LowRankLayer.create(nn.Linear(100, 11), 64, 1.0, torch.Generator().manual_seed(0))
    assert 0.09 < layer.down.abs().max().item() <= 0.1  # kaiming-uniform with a = sqrt(5): bound 1 / sqrt(fan_in)
    assert not layer.up.any()


def test_blocks_where_the_type_adapts_nothing_are_an_error(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    # in3 of Stable Diffusion has no attention, so LoRA has nothing there.
    with pytest.raises(BwlabError, match="no layer of this model is both in those blocks and adapted by lora"):
        create_adapter(unet, LORA, parse_spec("in3=4", scheme, kind="rank"), 1.0, scheme=scheme)


def test_an_unknown_option_is_refused(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    ranks = parse_spec("mid=4", scheme, kind="rank")
    with pytest.raises(BwlabError, match="lora with option rank_dropuot"):
        create_adapter(unet, LORA, ranks, 1.0, scheme=scheme, options={"rank_dropuot": 0.3})


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_no_positive_number_is_refused(
    unet: UNet2DConditionModel, scheme: BlockScheme, alpha: float
) -> None:
    with pytest.raises(BwlabError, match="not a finite number above 0"):
        create_adapter(unet, LORA, parse_spec("mid=4", scheme, kind="rank"), alpha, scheme=scheme)


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 10, 3, groups=2), nn.Conv2d(6, 10, 3, padding_mode="circular")])
def test_a_convolution_that_low_rank_cannot_follow_is_refused(layer: nn.Conv2d) -> None:
    with pytest.raises(BwlabError, match="Only plain convolutions"):
        LowRankLayer.create(layer, 2, 1.0, None)


@pytest.mark.parametrize("layer", [nn.Linear(7, 11), nn.Conv2d(6, 10, 1), nn.Conv2d(5, 13, 3)])
def test_factors_multiply_to_the_delta(layer: nn.Linear | nn.Conv2d) -> None:
    adapter = LowRankLayer.create(layer, 3, 1.5, torch.Generator().manual_seed(0))
    nn.init.normal_(adapter.up, generator=torch.Generator().manual_seed(1))
    delta = adapter.delta().detach().flatten(1).numpy()
    np.testing.assert_allclose(adapter.factors().dense(), delta, atol=1e-6)


def test_only_trained_blocks_are_in_the_gradient_graph(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    adapter = create_adapter(unet, LORA, parse_spec("out3=2", scheme, kind="rank"), 1.0, scheme=scheme).train()
    seen: dict[str, bool] = {}

    def watch(name: str) -> None:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            seen[name] = (output if isinstance(output, torch.Tensor) else output[0]).requires_grad

        handles.append(unet.get_submodule(name).register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name in ("mid_block", "up_blocks.2", "up_blocks.3"):
        watch(name)
    with attach(unet, ScaledAdapter(adapter)):
        unet(torch.randn(1, 4, 16, 16), 3, torch.randn(1, 5, 24))
    for handle in handles:
        handle.remove()
    assert seen == {"mid_block": False, "up_blocks.2": False, "up_blocks.3": True}
