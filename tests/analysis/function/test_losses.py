"""Loss interference, against losses by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bwlab.adapters.adapter import Attached, attach
from bwlab.training.objective import noise_schedule, training_target
from bwlab_analysis.function.inputs import conditions
from bwlab_analysis.function.losses import Loss, loss_interference
from tests.analysis.function.conftest import World


@torch.no_grad()
def loss(world: World, *uses: Attached) -> float:
    losses = []
    for time in (700, 200):
        times = torch.full((3,), time)
        schedule = noise_schedule(world.pipe)
        noisy = schedule.add_noise(world.inputs.latents, world.inputs.noise, times)
        target = training_target(schedule, world.inputs.latents, world.inputs.noise, times)
        with attach(world.pipe.unet, *uses):
            output = world.pipe.unet(noisy, times, **conditions(world.pipe, world.inputs.captions)).sample
        losses.append(float((output - target).square().mean()))
    return sum(losses) / 2


def test_losses_are_those_of_the_variants_alone(world: World) -> None:
    report = loss_interference(world.pipe, world.scheme, world.a, world.b, world.inputs, timesteps=(700, 200), draws=2)
    a, b = Attached(world.a), Attached(world.b)
    assert report.base.value == pytest.approx(loss(world), rel=1e-5)
    assert report.own.value == pytest.approx(loss(world, a), rel=1e-5)
    assert report.both.value == pytest.approx(loss(world, a, b), rel=1e-5)
    assert report.harm.value == pytest.approx(report.both.value - report.own.value)
    off = Attached(world.b, {"*": 1.0, "in0": 0.0})
    blamed = next(one for one in report.blame if one.block == "in0")
    assert blamed.change.value == pytest.approx(report.both.value - loss(world, a, off), rel=1e-3, abs=1e-6)
    changes = [one.change.value for one in report.blame]
    assert changes == sorted(changes, reverse=True)
    off = Attached(world.a, {"*": 1.0, "mid": 0.0})
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
    assert replace(one, gain=Loss(0.4, math.nan)).gain_lost is None  # of a single latent
