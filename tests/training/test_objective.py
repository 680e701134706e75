"""Noise, targets and the loss, against the formulas written out in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from bwlab.training.dataset import Example
from bwlab.training.objective import draw_batch, prediction_loss, training_target
from bwlab.training.randomness import generator_for
from bwlab.training.training_set import TrainingSet

CPU = torch.device("cpu")


def schedule(prediction: str) -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction)


def training_set() -> TrainingSet:
    generator = torch.Generator().manual_seed(0)
    examples = tuple(Example(Path(name), name, 1, name) for name in "abc")
    means = torch.randn(3, 2, 5, 7, generator=generator)
    contexts = torch.randn(2, 11, 13, generator=generator)
    return TrainingSet(examples, means, torch.full_like(means, 0.5), contexts, torch.tensor([1, 0, 1]))


def signal(timesteps: torch.Tensor) -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)[timesteps].view(-1, 1, 1, 1)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_batch_follows_the_formulas(prediction: str) -> None:
    data = training_set()
    batch = draw_batch(data, [2, 0], schedule(prediction), generator_for(0, "x"), CPU)
    latents, noise, kept = batch.latents.double(), batch.noise.double(), signal(batch.timesteps)
    targets = {
        "epsilon": noise,
        "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * latents,
        "sample": latents,
    }
    assert_near(batch.noisy.double(), kept.sqrt() * latents + (1 - kept).sqrt() * noise)
    assert_near(batch.target.double(), targets[prediction])
    assert torch.equal(batch.context, data.contexts[torch.tensor([1, 1])])


def assert_near(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_latents_are_sampled_from_the_posterior() -> None:
    data = training_set()
    batch = draw_batch(data, [1] * 4000, schedule("epsilon"), generator_for(0, "x"), CPU)
    torch.testing.assert_close(batch.latents.mean(0), data.means[1], rtol=0, atol=0.05)
    torch.testing.assert_close(batch.latents.std(0), data.deviations[1], rtol=0, atol=0.05)
    assert int(batch.timesteps.min()) >= 0
    assert int(batch.timesteps.max()) <= 999
    assert float(batch.timesteps.float().mean()) == pytest.approx(499.5, abs=20)


def test_the_loss_of_the_target_is_zero_and_of_nothing_its_mean_square() -> None:
    batch = draw_batch(training_set(), [0, 1], schedule("epsilon"), generator_for(0, "x"), CPU)
    assert float(prediction_loss(batch.target, batch)) == 0
    expected = float(batch.target.double().square().mean())
    assert float(prediction_loss(torch.zeros_like(batch.target), batch)) == pytest.approx(expected, rel=1e-6)


def test_the_velocity_mixes_noise_and_latents() -> None:
    noise, latents = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    early = training_target(schedule("v_prediction"), latents, noise, torch.tensor([0]))
    late = training_target(schedule("v_prediction"), latents, noise, torch.tensor([999]))
    assert float(early) > 0.99
    assert float(late) < 0.1
