"""Adapters folded into copies of the weights: the same images for less work, and nothing left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from bwlab.adapters.attach import ScaledAdapter
from bwlab.adapters.folded import can_fold
from bwlab.adapters.frozen import FrozenDeltaLayer
from bwlab.adapters.modules import adapted_by_path
from bwlab.generation.attach import attach_scaled
from bwlab.generation.sample import generate
from bwlab.plugins.manager import PluginManager
from tests.adapters.oft_like import OFT_LIKE
from tests.generation.conftest import strong_adapter
from tests.generation.test_attach import state

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter
    from bwlab.base.architectures import Pipeline


@pytest.fixture(scope="module")
def pair(pipe: Pipeline, manager: PluginManager) -> tuple[Adapter, Adapter]:
    return (
        strong_adapter(pipe, manager, "all=2, te=2", seed=1, text=True, kind="locon"),
        strong_adapter(pipe, manager, "upper=3", seed=2),
    )


def test_images_are_the_same_up_to_rounding(pipe: Pipeline, pair: tuple[Adapter, Adapter]) -> None:
    before = state(pipe)
    uses = [ScaledAdapter(pair[0], "in0=0.5, *=1", "0-0.5:1, 0.5-1:0.3"), ScaledAdapter(pair[1], 0.7)]
    folded, hooked = (
        np.asarray(generate(pipe, ["fox"], [3], uses, steps=4, fold=fold)[0], np.int16) for fold in (True, False)
    )
    plain = np.asarray(generate(pipe, ["fox"], [3], steps=4)[0], np.int16)
    assert abs(folded - hooked).max() <= 1
    assert abs(plain - hooked).max() > 20
    assert state(pipe) == before


def test_folded_layers_have_no_hook_and_get_their_weight_back(pipe: Pipeline, pair: tuple[Adapter, Adapter]) -> None:
    before = state(pipe)
    with attach_scaled(pipe, [ScaledAdapter(pair[1])], fold=True):
        assert not any(module._forward_hooks for module in pipe.unet.modules())
        assert state(pipe) != before
    assert state(pipe) == before


def test_a_layer_that_needs_the_base_weight(pipe: Pipeline, manager: PluginManager) -> None:
    from bwlab.adapters.adapter import create_adapter
    from bwlab.base.load import base_scheme
    from bwlab.blocks.spec import parse_spec

    scheme = base_scheme(pipe, manager.block_schemes())
    adapter = create_adapter(pipe.unet, OFT_LIKE, parse_spec("upper=2", scheme, kind="rank"), None, scheme=scheme)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2)
    uses = [ScaledAdapter(adapter.eval(), 0.8)]
    folded, hooked = (
        np.asarray(generate(pipe, ["fox"], [3], uses, steps=2, fold=fold)[0], np.int16) for fold in (True, False)
    )
    assert abs(folded - hooked).max() <= 1


def test_what_a_weight_cannot_do_stays_a_hook(pipe: Pipeline, pair: tuple[Adapter, Adapter]) -> None:
    path, layer = next(iter(pair[1].layers.items()))
    base = adapted_by_path(pipe.unet, ())[path]
    assert can_fold(layer, 1.0, base)
    assert not can_fold(layer, torch.ones(2), base)
    assert not can_fold(layer, 1.0, torch.nn.Linear(2, 2, dtype=torch.bfloat16))
    assert not can_fold(layer, 1.0, torch.nn.LayerNorm(2))
    linear = torch.nn.Linear(2, 3)
    tensors = {"diff": torch.ones(3, 2)}
    assert can_fold(FrozenDeltaLayer.from_tensors(linear, tensors), 1.0, linear)
    with_bias = FrozenDeltaLayer.from_tensors(linear, {**tensors, "diff_b": torch.ones(3)})
    assert not can_fold(with_bias, 1.0, linear)
