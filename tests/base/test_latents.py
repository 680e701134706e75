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


def test_the_number_of_images_at_once_counts_for_memory_alone(pipe: Pipeline) -> None:
    images = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(8)) * 2 - 1
    whole, single = encode_images(pipe.vae, images), encode_images(pipe.vae, images, at_once=1)
    torch.testing.assert_close(whole.mean, single.mean)
    assert whole.mean.shape == whole.deviation.shape == (3, 4, *single.mean.shape[2:])
