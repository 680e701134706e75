"""The probe looks at a UNet at work and leaves it as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from bwlab.base.load import load_base
from bwlab.errors import BwlabError
from bwlab_analysis.activations.probe import BlockProbe
from tests.conftest import TINY_WIDTH, tiny_unet


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return tiny_unet().eval()


@torch.no_grad()
def run(unet: UNet2DConditionModel, time: int | Tensor, batch: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, 8, 8, generator=generator)
    output: Tensor = unet(latents, time, torch.randn(batch, 7, TINY_WIDTH, generator=generator)).sample
    return output


def hooks(unet: UNet2DConditionModel) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules())


def test_blocks_are_what_they_put_out(unet: UNet2DConditionModel) -> None:
    kept: list[Tensor] = []
    handle = unet.mid_block.register_forward_hook(lambda module, args, output: kept.append(output))
    with BlockProbe(unet) as probe:
        output = run(unet, 500)
    handle.remove()
    statistics = probe.statistics()
    assert tuple(statistics) == ("in0", "in1", "in2", "in3", "mid", "out0", "out1", "out2", "out3")
    assert torch.allclose(statistics["mid"].mean, kept[0].double().mean((0, 2, 3)), atol=1e-6)
    assert statistics["mid"].norm == pytest.approx(float(kept[0].flatten(1).norm(dim=1).mean()), rel=1e-6)
    assert torch.equal(output, run(unet, 500))
    assert hooks(unet) == 0


def test_timesteps_are_kept_apart(unet: UNet2DConditionModel) -> None:
    with BlockProbe(unet, ["out3"], bins=10) as probe:
        run(unet, 950)
        run(unet, torch.tensor([10, 450, 20]))
    found = probe.by_timestep("out3")
    assert {time: moments.samples for time, moments in found.items()} == {900: 3, 400: 1, 0: 2}
    assert probe.statistics()["out3"].samples == 6


def test_cells_and_modules_have_their_paths(unet: UNet2DConditionModel) -> None:
    with BlockProbe(unet, ["in1"], at=("block", "cell", "module")) as probe:
        run(unet, 5)
    names = probe.names()
    assert names[0] == "in1"
    assert "down_blocks.1.resnets.0" in names
    assert "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k" in names
    assert all(name == "in1" or name.startswith("down_blocks.1.") for name in names)
    assert set(probe.statistics()) == set(names)


def test_parts_and_outer_modules_can_be_named(unet: UNet2DConditionModel) -> None:
    assert BlockProbe(unet, ["upper"]).names() == ("in0", "out3")
    with BlockProbe(unet, ["conv_in"], at=["module"]) as probe:
        run(unet, 5)
    assert list(probe.statistics()) == ["conv_in"]


def test_names_are_checked_before_anything_is_attached(unet: UNet2DConditionModel) -> None:
    with pytest.raises(BwlabError, match="Did you mean upper"):
        BlockProbe(unet, ["in0", "uper"])
    with pytest.raises(BwlabError, match="block, cell, module"):
        BlockProbe(unet, at=["blocks"])
    with pytest.raises(BwlabError, match="only text encoders"):
        BlockProbe(unet, ["te"])
    with pytest.raises(BwlabError, match="0 bins"):
        BlockProbe(unet, bins=0)
    probe = BlockProbe(unet, ["in0"])
    with pytest.raises(BwlabError, match="Choose from in0"):
        probe.by_timestep("in1")
    assert hooks(unet) == 0


def test_an_error_inside_leaves_no_hook(unet: UNet2DConditionModel) -> None:
    with pytest.raises(RuntimeError), BlockProbe(unet):
        unet(torch.zeros(1, 3, 8, 8), 5, torch.zeros(1, 7, TINY_WIDTH))
    assert hooks(unet) == 0


def test_memory_does_not_grow_with_the_steps(unet: UNet2DConditionModel) -> None:
    def kept(steps: int) -> int:
        with BlockProbe(unet, bins=4) as probe:
            for step in range(steps):
                run(unet, (step * 250) % 1000)
        assert probe.statistics()["mid"].samples == 3 * steps
        moments = [one for places in probe._moments.values() for one in places.values()]
        return sum(value.numel() for one in moments for value in vars(one).values() if isinstance(value, Tensor))

    assert kept(4) == kept(24) > 0


def test_it_works_through_a_pipeline(tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    with BlockProbe(pipe.unet, ["mid"]) as probe:
        pipe("a fox", num_inference_steps=3, output_type="latent")
    assert probe.statistics()["mid"].samples == 6  # with guidance the batch is doubled
    assert len(probe.by_timestep("mid")) == 3
