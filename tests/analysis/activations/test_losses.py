"""Loss interference, against losses by hand."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch

from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.noise import noise_process
from bwlab_analysis.activations.inputs import Inputs, text_conditions
from bwlab_analysis.activations.losses import Loss, loss_beside_all, loss_interference
from bwlab_analysis.report.answer import loss_warnings
from tests.analysis.activations.conftest import World
from tests.analysis.random_adapters import random_adapter


@torch.no_grad()
def loss(world: World, *uses: ScaledAdapter) -> float:
    losses = []
    for time in (700, 200):
        times = torch.full((3,), time)
        schedule = noise_process(world.pipe)
        noisy = schedule.add_noise(world.inputs.latents, world.inputs.noise, times)
        target = schedule.target(world.inputs.latents, world.inputs.noise, times)
        with attach(world.pipe.unet, *uses):
            output = world.pipe.unet(noisy, times, **text_conditions(world.pipe, world.inputs.captions)).sample
        losses.append(float((output - target).square().mean()))
    return sum(losses) / 2


def test_losses_are_those_of_the_variants_alone(world: World) -> None:
    report = loss_interference(world.pipe, world.scheme, world.a, world.b, world.inputs, timesteps=(700, 200), draws=2)
    a, b = ScaledAdapter(world.a), ScaledAdapter(world.b)
    assert report.base.value == pytest.approx(loss(world), rel=1e-5)
    assert report.own.value == pytest.approx(loss(world, a), rel=1e-5)
    assert report.both.value == pytest.approx(loss(world, a, b), rel=1e-5)
    assert report.harm.value == pytest.approx(report.both.value - report.own.value)
    off = ScaledAdapter(world.b, {"*": 1.0, "in0": 0.0})
    blamed = next(one for one in report.blame if one.block == "in0")
    assert blamed.change.value == pytest.approx(report.both.value - loss(world, a, off), rel=1e-3, abs=1e-6)
    changes = [one.change.value for one in report.blame]
    assert changes == sorted(changes, reverse=True)
    off = ScaledAdapter(world.a, {"*": 1.0, "mid": 0.0})
    needed = next(one for one in report.need if one.block == "mid")
    assert needed.change.value == pytest.approx(loss(world, off, b) - report.both.value, rel=1e-3, abs=1e-6)
    assert len(report.random_harm) == 2
    assert report.own.error > 0


def test_the_share_of_the_gain_that_is_lost(world: World) -> None:
    report = loss_interference(world.pipe, world.scheme, world.a, world.b, world.inputs, timesteps=(700,), draws=0)
    gain = report.base.value - report.own.value
    assert report.gain.value == pytest.approx(gain)
    assert report.random_harm == ()
    one = replace(report, harm=Loss(0.1, 0.05))
    assert replace(one, gain=Loss(0.4, 0.1)).gain_lost == pytest.approx(0.25)
    assert replace(one, gain=Loss(0.4, 0.5)).gain_lost is None  # within its standard error
    assert replace(one, gain=Loss(-0.4, 0.1)).gain_lost is None
    assert replace(one, gain=Loss(0.4, math.nan)).gain_lost is None  # of a single image
    known = replace(one, gain=Loss(0.4, 0.1), gain_lost_error=0.2, random_harm=(0.0, 0.04))
    assert known.kept == Loss(0.75, 0.2)
    assert known.random_kept == pytest.approx((1.0, 0.9))
    assert replace(known, gain=Loss(0.4, 0.5)).random_kept == ()


def test_the_error_of_the_lost_share_is_that_over_images(world: World) -> None:
    """The delta method, from the losses of each of three images alone."""
    one = partial(loss_interference, world.pipe, world.scheme, world.a, world.b, timesteps=(700,), draws=0)
    inputs = world.inputs
    whole = one(inputs=inputs, knock_outs=False)
    images = [
        one(inputs=Inputs(inputs.latents[[k]], inputs.noise[[k]], (inputs.captions[k],), "one", (0,)), knock_outs=False)
        for k in range(3)
    ]
    gains, harms = ([getattr(image, name).value for image in images] for name in ("gain", "harm"))
    lost = sum(harms) / sum(gains)
    residuals = [harm - lost * gain for harm, gain in zip(harms, gains, strict=True)]
    error = statistics.stdev(residuals) / math.sqrt(3) / abs(statistics.fmean(gains))
    assert whole.gain_lost_error == pytest.approx(error, rel=1e-3)


def test_the_loss_beside_all_others_is_that_with_all_of_them(world: World) -> None:
    third = random_adapter(world.pipe.unet, "lora", "mid=2", 3)
    report = loss_beside_all(
        world.pipe, world.scheme, world.a, [world.b, third], world.inputs, "a", timesteps=(700, 200), draws=2
    )
    every = [ScaledAdapter(adapter) for adapter in (world.a, world.b, third)]
    assert report.both.value == pytest.approx(loss(world, *every), rel=1e-5)
    assert report.own.value == pytest.approx(loss(world, every[0]), rel=1e-5)
    assert report.base.value == pytest.approx(loss(world), rel=1e-5)
    assert report.harm.value == pytest.approx(report.both.value - report.own.value)
    assert len(set(report.random_harm)) == 2
    assert report.blame == report.need == ()


@pytest.mark.parametrize(
    ("gain", "doubtful"),
    [(Loss(0.4, 0.1), False), (Loss(0.4, math.nan), False), (Loss(0.1, 0.4), True), (Loss(-0.4, math.nan), True)],
)
def test_images_whose_loss_is_not_lowered_are_doubted(world: World, gain: Loss, doubtful: bool) -> None:
    report = loss_interference(world.pipe, world.scheme, world.a, world.b, world.inputs, timesteps=(700,), draws=0)
    one = replace(report, gain=gain)
    assert one.doubtful is doubtful
    assert len(loss_warnings([one], {"a": "fox"})) == doubtful


def test_latents_of_one_image_are_no_independent_ones(world: World) -> None:
    """Six latents of three images: the standard error is that of the three images' means."""
    inputs = world.inputs
    noise = torch.cat([inputs.noise, inputs.noise.flip(0)])
    twice = Inputs(inputs.latents.repeat(2, 1, 1, 1), noise, inputs.captions * 2, "twice", (0, 1, 2) * 2)
    one = partial(
        loss_interference, world.pipe, world.scheme, world.a, world.b, timesteps=(700,), draws=0, knock_outs=False
    )
    images = [
        replace(twice, latents=twice.latents[k::3], noise=noise[k::3], captions=twice.captions[k::3], images=(0, 0))
        for k in range(3)
    ]
    means = [one(inputs=image).own for image in images]
    assert all(math.isnan(mean.error) for mean in means)
    own = one(inputs=twice).own
    assert own.value == pytest.approx(statistics.fmean(mean.value for mean in means), rel=1e-5)
    assert own.error == pytest.approx(statistics.stdev(mean.value for mean in means) / math.sqrt(3), rel=1e-4)
