"""`gradient_path = "skip"`: its rule, and what it does to gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.blocks.configs import SD14, SDXL, meta_unet
from bwlab.errors import BwlabError
from bwlab.training.graph import skip_path, without_inner_graph
from tests.training.test_graph import frozen_unet, nothing, predict, skipping, step, trained

RESNET = "resnets.0.conv1"


@pytest.fixture(scope="module")
def sd() -> nn.Module:
    unet: nn.Module = meta_unet(SD14)
    return unet


@pytest.fixture(scope="module")
def sdxl() -> nn.Module:
    unet: nn.Module = meta_unet(SDXL)
    return unet


def layers(*blocks: str) -> list[str]:
    """Return a layer in each of these blocks, as `in0` or `out3`."""
    sides = {"in": "down_blocks", "ou": "up_blocks"}
    return [f"{sides[b[:2]]}.{b[-1]}.{RESNET}" if b != "mid" else f"mid_block.{RESNET}" for b in blocks]


@pytest.mark.parametrize(
    ("blocks", "inner"),
    [
        (("in0", "out3"), "in1 in2 in3 mid out0 out1 out2"),
        (("in0", "out2"), "in1 in2 in3 mid out0 out1"),
        (("in1", "out2", "out3"), "in2 in3 mid out0 out1"),
        (("in0", "in1", "out2"), "in2 in3 mid out0 out1"),
        (("in3", "out0"), "mid"),
    ],
)
def test_the_blocks_between_the_trained_ones_are_inner(sd: nn.Module, blocks: Sequence[str], inner: str) -> None:
    found = skip_path(sd, layers(*blocks)).inner
    names = {"down_blocks.": "in", "up_blocks.": "out", "mid_block": "mid"}
    for path, name in names.items():
        found = tuple(one.replace(path, name) for one in found)
    assert " ".join(found) == inner


def test_sdxl(sdxl: nn.Module) -> None:
    found = skip_path(sdxl, layers("in0", "out2"))
    assert found.inner == ("down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1")


def test_a_layer_after_the_last_useful_skip_connection_is_unreached(sd: nn.Module) -> None:
    down = "down_blocks.0.downsamplers.0.conv"
    assert skip_path(sd, [*layers("in0", "out3"), down]).unreached == (down,)
    assert skip_path(sd, [*layers("in0", "out2"), down]).unreached == ()


@pytest.mark.parametrize(
    ("blocks", "found"),
    [
        (("in0", "mid", "out3"), "mid is trained"),
        (("out3",), "no down block is trained"),
        (("in0",), "no up block is trained"),
        (("in1", "out3"), "in1 is trained, and none of its skip connections leads to out3"),
        (("in0", "in2", "out2"), "in2 is trained"),
    ],
)
def test_trained_blocks_that_make_no_sense_are_refused(sd: nn.Module, blocks: Sequence[str], found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        skip_path(sd, layers(*blocks))


def test_only_layers_of_the_unet_count(sd: nn.Module) -> None:
    assert skip_path(sd, [*layers("in0", "out3"), "te.encoder.layers.0.mlp.fc1", "conv_in"])
    with pytest.raises(BwlabError, match="no down block"):
        skip_path(sd, ["te.encoder.layers.0.mlp.fc1"])


def test_values_and_the_gradients_of_up_blocks_are_exact_and_the_others_near() -> None:
    unet = frozen_unet()
    adapter = trained(unet, "locon", "upper=3")
    expected, exact = step(unet, adapter, nothing)
    found, near = step(unet, adapter, skipping)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    unreached = skip_path(unet, adapter.layers).unreached
    assert unreached == ("down_blocks.0.downsamplers.0.conv",)
    for name, gradient in near.items():
        path, whole = name.rpartition(".")[0], exact[name]
        assert whole is not None
        if path in unreached:
            assert gradient is None
        elif name.startswith("up_blocks"):
            torch.testing.assert_close(gradient, whole, rtol=1e-9, atol=1e-12)
        else:
            assert gradient is not None
            assert gradient.any()
    below = [name for name in near if name.startswith("down_blocks") and near[name] is not None]
    assert not torch.allclose(joined(near, below), joined(exact, below))
    assert torch.cosine_similarity(joined(near, below), joined(exact, below), dim=0) > 0.5


def joined(gradients: dict[str, Tensor | None], names: Sequence[str]) -> Tensor:
    return torch.cat([gradient.flatten() for name in names if (gradient := gradients[name]) is not None])


def test_gradients_are_on_again_after_an_inner_block_failed() -> None:
    unet = frozen_unet()

    def fail(module: nn.Module, args: object) -> None:
        assert not torch.is_grad_enabled()
        raise KeyError("a failing block")

    path = skip_path(unet, layers("in0", "out3"))
    handle = unet.get_submodule("mid_block.resnets.0").register_forward_pre_hook(fail)
    with without_inner_graph(unet, path), pytest.raises(KeyError):
        predict(unet)
    handle.remove()
    assert torch.is_grad_enabled()


@pytest.mark.slow
def test_a_compiled_unet_has_the_same_gradients() -> None:
    unet = frozen_unet()
    adapter = trained(unet, "lora", "upper=3")
    _, expected = step(unet, adapter, skipping)
    with attach(unet, ScaledAdapter(adapter, 0.7)), skipping(unet, adapter):
        torch.compiler.reset()
        predict(unet, torch.compile(unet, backend="eager")).square().mean().backward()
    for name, parameter in adapter.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-9)
