"""What two adapters do to a base, measured on a tiny one against forward passes by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.noise import noise_process
from bwlab_analysis.activations.inputs import Inputs, text_conditions
from bwlab_analysis.activations.interaction import InteractionReport, interaction
from bwlab_analysis.activations.loaded_base import concatenate_inputs
from bwlab_analysis.activations.random_adapters import delta_norm, random_adapter_like
from bwlab_analysis.measures import PREDICTION
from tests.analysis.activations.conftest import World
from tests.analysis.random_adapters import random_adapter


@pytest.fixture(scope="module")
def report(world: World) -> InteractionReport:
    return interaction(world.pipe, world.scheme, world.a, world.b, world.inputs, (700, 200), draws=2)


@torch.no_grad()
def predictions(world: World, *adapters: Adapter, scale: object = 1.0) -> list[Tensor]:
    outputs = []
    for time in (700, 200):
        times = torch.full((3,), time)
        noisy = noise_process(world.pipe).add_noise(world.inputs.latents, world.inputs.noise, times)
        with attach(world.pipe.unet, *(ScaledAdapter(one, scale) for one in adapters)):  # type: ignore[arg-type]
            outputs.append(world.pipe.unet(noisy, times, **text_conditions(world.pipe, world.inputs.captions)).sample)
    return outputs


def test_the_prediction_is_measured_as_by_hand(world: World, report: InteractionReport) -> None:
    h0, ha, hb, hab = (
        torch.stack(predictions(world, *adapters)).double()
        for adapters in ((), (world.a,), (world.b,), (world.a, world.b))
    )
    found = report.at(PREDICTION).measures
    assert found["effect_a"] is not None
    assert found["effect_a"].value == pytest.approx(float((ha - h0).norm() / h0.norm()), rel=1e-5)
    kept = ((hab - hb) * (ha - h0)).sum() / (ha - h0).square().sum()
    assert found["retention_a"] is not None
    assert found["retention_a"].value == pytest.approx(float(kept), rel=1e-4)
    parts, wholes = (((hab - hb) * (ha - h0)).sum((0, 2, 3, 4)), (ha - h0).square().sum((0, 2, 3, 4)))
    residuals = parts - kept * wholes
    assert found["retention_a"].details["error"] == pytest.approx(
        float(residuals.std() / wholes.mean() / len(parts) ** 0.5), rel=1e-3
    )


def test_latents_of_one_image_are_no_independent_ones(world: World) -> None:
    """Two folders with one image and with two, which are used again with other noise, are three images."""
    one, two = (
        Inputs(world.inputs.latents[rows], world.inputs.noise[rows], ("a fox",) * len(rows), "images", images)
        for rows, images in (([0, 0], (0, 0)), ([1, 2, 1], (0, 1, 0)))
    )
    inputs = concatenate_inputs([one, two])
    assert inputs.images == (0, 0, 1, 2, 1)
    assert [batch.images for batch in inputs.batches(2)] == [(0, 0), (1, 2), (1,)]
    torch.testing.assert_close(inputs.by_image(torch.tensor([1.0, 3, 5, 7, 9])), torch.tensor([2.0, 7, 7]))

    def errors(inputs: Inputs) -> Mapping[str, float]:
        found = interaction(world.pipe, world.scheme, world.a, world.b, inputs, (700,), draws=0, knock_outs=False)
        retention = found.at(PREDICTION).measures["retention_a"]
        assert retention is not None
        return retention.details

    assert errors(one) == {}, "one image has no error"
    known = replace(two, latents=two.latents[[0, 1]], noise=two.noise[[0, 1]], captions=("",) * 2, images=(0, 1))
    twice = {name: torch.cat([kept, kept]) for name, kept in (("latents", known.latents), ("noise", known.noise))}
    again = replace(known, **twice, captions=("",) * 4, images=(0, 1) * 2)  # type: ignore[arg-type]
    assert errors(again)["error"] == pytest.approx(errors(known)["error"], rel=1e-4)


def test_switching_a_block_off_is_measured_as_by_hand(world: World, report: InteractionReport) -> None:
    off = {"*": 1.0, "out3": 0.0}
    h0, ha, hb, hab = (
        torch.stack(predictions(world, *adapters)).double()
        for adapters in ((), (world.a,), (world.b,), (world.a, world.b))
    )
    without_b = torch.stack(predictions(world, world.b, scale=off)).double()
    both = []
    for time in (700, 200):
        times = torch.full((3,), time)
        noisy = noise_process(world.pipe).add_noise(world.inputs.latents, world.inputs.noise, times)
        with torch.no_grad(), attach(world.pipe.unet, ScaledAdapter(world.a), ScaledAdapter(world.b, off)):
            text = text_conditions(world.pipe, world.inputs.captions)
            both.append(world.pipe.unet(noisy, times, **text).sample)
    gained = ((torch.stack(both).double() - without_b) - (hab - hb)) * (ha - h0)
    lost = (hb - without_b) * (hb - h0)
    blamed = next(one for one in report.blame if (one.adapter, one.block) == ("b", "out3"))
    assert blamed.gain == pytest.approx(float(gained.sum() / (ha - h0).square().sum()), rel=1e-3, abs=1e-6)
    assert blamed.loss == pytest.approx(float(lost.sum() / (hb - h0).square().sum()), rel=1e-3, abs=1e-6)


def test_every_block_is_told_with_its_null(report: InteractionReport) -> None:
    assert {place.block for place in report.effects} == {
        *("in0", "in1", "in2", "in3", "mid", "out0", "out1", "out2", "out3", PREDICTION)
    }
    for place in report.effects:
        measured = place.measures["effect_a"]
        assert measured is not None
        assert measured.random is not None
        assert measured.random > 0
    assert {one.block for one in report.blame if one.adapter == "b"} == {"in0", "out3"}
    assert report.at("in0", 200).timestep == 200


def test_blocks_before_the_first_difference_are_untouched(world: World) -> None:
    late = random_adapter(world.pipe.unet, "lora", "out2=2", 5)
    report = interaction(world.pipe, world.scheme, late, world.b, world.inputs, (500,), draws=2)
    effect = report.at("out1").measures["effect_a"]
    assert effect is not None
    assert effect.value == 0
    assert report.at("out1").measures["retention_a"] is None
    after = report.at("out2").measures["interaction"]
    assert after is not None
    assert after.value > 0  # disjoint blocks do interact, in what the UNet computes


def test_random_adapters_have_the_norms_of_what_they_stand_for(world: World) -> None:
    unet = world.pipe.unet
    drawn = random_adapter_like(world.b, unet, 7)
    assert set(drawn.layers) == set(world.b.layers)
    for path, layer in drawn.layers.items():
        base = unet.get_submodule(path)
        assert delta_norm(layer, base) == pytest.approx(delta_norm(world.b.layers[path], base), rel=1e-5)
        assert layer.rank == world.b.layers[path].rank
    again, other = random_adapter_like(world.b, unet, 7), random_adapter_like(world.b, unet, 8)
    path = next(iter(drawn.layers))
    assert torch.equal(drawn.layers[path].delta(), again.layers[path].delta())
    assert not torch.allclose(drawn.layers[path].delta(), other.layers[path].delta())


def test_nothing_of_the_base_is_changed(world: World) -> None:
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in world.pipe.unet.modules())
