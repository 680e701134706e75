"""Noise, targets and the loss, against the formulas written out in float64."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from bwlab.base.noise import Diffusion, min_snr_weights, signal_to_noise
from bwlab.dataset.order import generator_for
from bwlab.dataset.training_set import SampledBatch
from bwlab.training.objective import (
    NoisyBatch,
    noisy_batch,
    prediction_loss,
)

TARGETS = ["epsilon", "v_prediction", "sample"]


def schedule(prediction: str = "epsilon", zero_snr: bool = False) -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_snr,
    )


def drawn(*indices: int) -> SampledBatch:
    means = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))[list(indices)]
    sizes = torch.arange(6.0).expand(len(indices), 6)
    captions = tuple("abc"[index] for index in indices)
    return SampledBatch(
        indices, means, torch.full_like(means, 0.5), captions, torch.tensor([1.0, 3.0, 0.5])[list(indices)], sizes
    )


def batch_of(indices: tuple[int, ...], prediction: str = "epsilon", **more: float) -> NoisyBatch:
    return noisy_batch(drawn(*indices), Diffusion(schedule(prediction)), generator_for(0, "x"), **more)


def kept(timesteps: torch.Tensor) -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)[timesteps].view(-1, 1, 1, 1)


@pytest.mark.parametrize("prediction", TARGETS)
def test_a_batch_follows_the_formulas(prediction: str) -> None:
    batch = batch_of((2, 0), prediction)
    latents, noise, signal = batch.latents.double(), batch.noise.double(), kept(batch.timesteps)
    targets = {
        "epsilon": noise,
        "v_prediction": signal.sqrt() * noise - (1 - signal).sqrt() * latents,
        "sample": latents,
    }
    assert_near(batch.noisy.double(), signal.sqrt() * latents + (1 - signal).sqrt() * noise)
    assert_near(batch.target.double(), targets[prediction])
    assert (batch.captions, batch.examples) == (("c", "a"), (2, 0))


def assert_near(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_latents_are_sampled_from_the_posterior() -> None:
    batch = batch_of((1,) * 4000)
    torch.testing.assert_close(batch.latents.mean(0), drawn(1).means[0], rtol=0, atol=0.05)
    torch.testing.assert_close(batch.latents.std(0), drawn(1).deviations[0], rtol=0, atol=0.05)
    assert int(batch.timesteps.min()) >= 0
    assert int(batch.timesteps.max()) <= 999
    assert float(batch.timesteps.float().mean()) == pytest.approx(499.5, abs=20)


def test_an_offset_is_the_same_over_each_channel_and_its_size_is_the_setting() -> None:
    plain, offset = batch_of((1,) * 4000), batch_of((1,) * 4000, offset=0.25)
    difference = offset.noise - plain.noise
    assert torch.equal(plain.timesteps, offset.timesteps)
    assert_near(difference, difference[:, :, :1, :1].expand_as(difference))
    assert float(difference[:, :, 0, 0].std()) == pytest.approx(0.25, rel=0.05)


def test_the_rows_of_a_batch_are_those_of_the_whole() -> None:
    batch = batch_of((0, 1, 2, 1))
    part = batch.rows(slice(2, 4))
    assert (part.examples, part.captions) == ((2, 1), ("c", "b"))
    for name in ("latents", "noise", "timesteps", "noisy", "target", "weights", "sizes"):
        assert torch.equal(getattr(part, name), getattr(batch, name)[2:]), name


def test_the_loss_counts_each_example_by_its_weight() -> None:
    batch = batch_of((0, 1))
    assert float(prediction_loss(batch.target, batch)) == 0
    errors = batch.target.double().square().mean(dim=(1, 2, 3))
    expected = float((errors[0] * 1 + errors[1] * 3) / 2)
    assert float(prediction_loss(torch.zeros_like(batch.target), batch)) == pytest.approx(expected, rel=1e-6)


def test_the_velocity_mixes_noise_and_latents() -> None:
    noise, latents = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    early = Diffusion(schedule("v_prediction")).target(latents, noise, torch.tensor([0]))
    late = Diffusion(schedule("v_prediction")).target(latents, noise, torch.tensor([999]))
    assert float(early) > 0.99
    assert float(late) < 0.1


def test_min_snr_weighs_the_same_error_alike_whatever_is_predicted() -> None:
    """The same mistake about the clean latents has errors in noise and velocity that differ by the right factors."""
    timesteps = torch.arange(0, 1000, 37)
    signal = kept(timesteps).flatten()
    snr = signal_to_noise(schedule().alphas_cumprod, timesteps)
    torch.testing.assert_close(snr, signal / (1 - signal), rtol=1e-3, atol=0)
    mistake = torch.ones_like(signal)
    in_noise, in_velocity = mistake * (signal / (1 - signal)).sqrt(), mistake / (1 - signal).sqrt()
    wanted = torch.minimum(snr, torch.tensor(5.0).double())
    assert_near(min_snr_weights(snr, 5.0, "sample") * mistake**2, wanted)
    torch.testing.assert_close(min_snr_weights(snr, 5.0, "epsilon") * in_noise**2, wanted, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(min_snr_weights(snr, 5.0, "v_prediction") * in_velocity**2, wanted, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("prediction", TARGETS)
def test_min_snr_is_finite_for_pure_noise(prediction: str) -> None:
    snr = signal_to_noise(schedule(zero_snr=True).alphas_cumprod, torch.tensor([999]))
    weight = float(min_snr_weights(snr, 5.0, prediction))
    assert weight == pytest.approx({"epsilon": 1.0, "v_prediction": 0.0, "sample": 0.0}[prediction], abs=1e-6)


def test_min_snr_multiplies_the_weights_of_the_examples() -> None:
    plain, capped = batch_of((0, 1, 2)), batch_of((0, 1, 2), gamma=5.0)
    snr = signal_to_noise(schedule().alphas_cumprod, plain.timesteps)
    assert_near(capped.weights, plain.weights * min_snr_weights(snr, 5.0, "epsilon").float())
    assert torch.equal(capped.noisy, plain.noisy)
