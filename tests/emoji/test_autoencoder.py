"""The autoencoder's stage: learning, restarting, centred latents."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from rich.console import Console
from torch import Tensor

from bwlab_emoji.training import StageLog
from bwlab_emoji.vae import (
    AutoencoderTraining,
    learning_rate,
    peak_signal_to_noise,
    random_backgrounds,
    reconstruction_loss,
)


@pytest.fixture
def art() -> Tensor:
    """Seven opaque flat images."""
    colours = torch.randint(0, 256, (7, 3, 1, 1), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return torch.cat([colours.expand(7, 3, 64, 64), torch.full((7, 1, 64, 64), 255, dtype=torch.uint8)], dim=1)


def log_into(folder: Path) -> StageLog:
    return StageLog("vae", folder / "log.jsonl", Console(file=io.StringIO()), every=1)


def test_a_restarted_training_ends_as_an_uninterrupted_one(art: Tensor, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
    straight = AutoencoderTraining(art, art, whole, steps=4, batch=2)
    for _ in range(4):
        straight._learn()
    first = AutoencoderTraining(art, art, halves, steps=4, batch=2)
    for _ in range(2):
        first._learn()
    first._save()
    second = AutoencoderTraining(art, art, halves, steps=4, batch=2)
    assert second.step == 2
    for _ in range(2):
        second._learn()
    for name, value in straight.vae.state_dict().items():
        assert torch.equal(value, second.vae.state_dict()[name]), name


def test_latents_are_centred_and_decode_the_same(art: Tensor, tmp_path: Path) -> None:
    training = AutoencoderTraining(art, art, tmp_path, steps=1, batch=2)
    images = random_backgrounds(art.float() / 255, torch.Generator())
    rebuilt = rebuild(training.vae, images)
    with torch.no_grad():
        raw = training.vae.encode(images[::4]).latent_dist.mean
    training._normalise_latents()
    assert torch.allclose(rebuild(training.vae, images), rebuilt, atol=1e-4)
    with torch.no_grad():
        latents = training.vae.encode(images[::4]).latent_dist.mean
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    centred = raw - raw.mean(dim=(0, 2, 3), keepdim=True)
    assert torch.allclose(latents, centred / raw.std(), atol=1e-3)


@torch.no_grad()
def rebuild(vae: AutoencoderKL, images: Tensor) -> Tensor:
    rebuilt: Tensor = vae.decode(vae.encode(images).latent_dist.mean).sample
    return rebuilt


def test_run_trains_measures_and_saves(art: Tensor, tmp_path: Path) -> None:
    with log_into(tmp_path) as log:
        AutoencoderTraining(art, art, tmp_path, steps=2, batch=2).run(log)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 2]
    assert "psnr_unseen" in records[-1]
    assert AutoencoderTraining(art, art, tmp_path, steps=2, batch=2).step == 2


def test_the_rate_warms_up_and_ends_at_a_hundredth() -> None:
    assert learning_rate(0, 1000, peak=1.0) == pytest.approx(1 / 200)
    assert learning_rate(200, 1000, peak=1.0) == pytest.approx(1.0)
    assert learning_rate(1000, 1000, peak=1.0) == pytest.approx(0.01)


def test_equal_images_have_no_loss_and_a_grey_error_its_decibels() -> None:
    image = torch.zeros(2, 3, 5, 7)
    assert reconstruction_loss(image, image) == 0
    assert peak_signal_to_noise(image + 0.2, image) == pytest.approx(20.0, abs=1e-3)
