"""The UNet's stage: learning, restarting, averaging."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bwlab_emoji.text import MAX_TOKENS, new_text_encoder, new_tokenizer
from bwlab_emoji.unet import DenoiserTraining, LatentPool, new_unet, trapezoid


def training(folder: Path, steps: int = 4) -> DenoiserTraining:
    folder.mkdir(exist_ok=True)
    tokenizer = new_tokenizer(["red", "blue"])
    texts = [["red", "red"], ["blue", "blue"], ["red, blue", "blue"]]
    tokens = torch.stack([tokenizer(t, padding="max_length", return_tensors="pt").input_ids for t in texts])
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    latents = torch.randn(3, 2, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    return DenoiserTraining(LatentPool(latents, tokens, empty), new_text_encoder(tokenizer), folder, steps, 2, batch=2)


@pytest.mark.slow
def test_a_restarted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    straight = training(tmp_path / "whole")
    for _ in range(4):
        straight._learn()
    first = training(tmp_path / "halves")
    for _ in range(2):
        first._learn()
    first.save()
    second = training(tmp_path / "halves")
    assert second.step == 2
    for _ in range(2):
        second._learn()
    for name, value in straight._models.state_dict().items():
        assert torch.equal(value, second._models.state_dict()[name]), name


def test_unet_and_text_encoder_both_learn(tmp_path: Path) -> None:
    run = training(tmp_path / "run")
    before = {name: value.clone() for name, value in run._models.state_dict().items()}
    run._learn()
    changed = {name.split(".")[0] for name, value in run._models.state_dict().items() if not value.equal(before[name])}
    assert changed == {"unet", "text_encoder"}


def test_coloured_backgrounds_are_mixed_in_only_from_their_step(tmp_path: Path) -> None:
    run = training(tmp_path / "run")
    plain = {tuple(latents.flatten()[:5].tolist()) for latents in run.pool.latents[:, 0]}
    seen = [run._batch()[0] for _ in range(8)]
    assert {tuple(latents.flatten()[:5].tolist()) for batch in seen for latents in batch} <= plain
    run.step = run.coloured_from
    seen = [run._batch()[0] for _ in range(8)]
    assert not {tuple(latents.flatten()[:5].tolist()) for batch in seen for latents in batch} <= plain


def test_averaged_weights_load_into_a_fresh_unet(tmp_path: Path) -> None:
    run = training(tmp_path / "run")
    missing, unexpected = new_unet().load_state_dict(run.averaged()["unet"], strict=False)
    assert (missing, unexpected) == ([], [])
    assert set(run.averaged()["text_encoder"]) == set(run.text_encoder.state_dict())
    assert (tmp_path / "run").is_dir()
    assert run.pool.tokens.shape[-1] == MAX_TOKENS


def test_the_rate_is_a_trapezoid() -> None:
    assert trapezoid(0, 1000) == pytest.approx(1 / 200)
    assert trapezoid(500, 1000) == 1.0
    assert trapezoid(900, 1000) == pytest.approx(0.5)
    assert trapezoid(1000, 1000) == pytest.approx(0.01)
