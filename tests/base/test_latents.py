"""Images as latents of a base's autoencoder."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from bwlab.base.latents import encode_images
from bwlab.base.load import load_base

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


@pytest.fixture(scope="module")
def pipe(tiny_pipeline: Path) -> Pipeline:
    return load_base(tiny_pipeline)


@pytest.mark.parametrize("shift", [None, 0.0609])
def test_latents_are_shifted_then_scaled(pipe: Pipeline, shift: float | None) -> None:
    vae = deepcopy(pipe.vae)
    vae.register_to_config(shift_factor=shift, scaling_factor=0.3611)
    images = torch.rand(5, 3, 24, 40, generator=torch.Generator().manual_seed(7)) * 2 - 1
    posterior = encode_images(vae, images, at_once=2)
    for index, image in enumerate(images):
        with torch.no_grad():
            raw = vae.encode(image[None]).latent_dist
        torch.testing.assert_close(posterior.mean[index], (raw.mean[0] - (shift or 0.0)) * 0.3611)
        torch.testing.assert_close(posterior.deviation[index], raw.std[0] * 0.3611)
    assert not posterior.mean.requires_grad


def test_latents_have_a_mean_and_a_deviation_for_each_channel_beside_the_factor(pipe: Pipeline) -> None:
    """As diffusers' SDXL pipeline with the autoencoder of Playground v2.5 decodes them."""
    vae = deepcopy(pipe.vae)
    means, deviations = [-1.6, 0.5, 0.0, 2.0], [8.0, 4.0, 2.0, 0.5]
    vae.register_to_config(scaling_factor=0.5, latents_mean=means, latents_std=deviations)
    images = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(7)) * 2 - 1
    posterior = encode_images(vae, images)
    with torch.no_grad():
        raw = vae.encode(images).latent_dist.mean
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in (means, deviations))
    torch.testing.assert_close(posterior.mean * deviation / 0.5 + mean, raw)


def test_the_number_of_images_at_once_counts_for_memory_alone(pipe: Pipeline) -> None:
    images = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(8)) * 2 - 1
    whole, single = encode_images(pipe.vae, images), encode_images(pipe.vae, images, at_once=1)
    torch.testing.assert_close(whole.mean, single.mean)
    assert whole.mean.shape == whole.deviation.shape == (3, 4, *single.mean.shape[2:])
