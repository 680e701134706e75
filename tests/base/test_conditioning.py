"""Conditioning: equal to what diffusers' own pipelines give their UNet, for one and for two text encoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from bwlab.base.conditioning import SizeCondition, denoiser_conditions, encode_texts, size_conditions
from bwlab.base.models import family_of, text_encoders

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

CAPTIONS = ("a cat", "an owl, ink", "much longer than sixteen letters, so it is cut")


@pytest.fixture(scope="module")
def one(tiny_pipeline: Path) -> Pipeline:
    return StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None, requires_safety_checker=False)


@pytest.fixture(scope="module")
def two(tiny_xl_pipeline: Path) -> Pipeline:
    return StableDiffusionXLPipeline.from_pretrained(tiny_xl_pipeline, add_watermarker=False)


def seen_by_unet(pipe: Pipeline, **call: object) -> dict[str, Any]:
    """Return the keyword arguments that the pipeline calls its UNet with in its first step."""
    calls: list[dict[str, Any]] = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, __, kwargs: calls.append(kwargs), with_kwargs=True)
    pipe.set_progress_bar_config(disable=True)
    try:
        pipe(num_inference_steps=1, guidance_scale=1.0, output_type="latent", **call)
    finally:
        handle.remove()
    return calls[0]


def test_the_encoders_of_a_base(one: Pipeline, two: Pipeline) -> None:
    assert text_encoders(one) == (one.text_encoder,)
    assert text_encoders(two) == (two.text_encoder, two.text_encoder_2)


@torch.no_grad()
def test_one_encoder_is_as_in_the_pipeline(one: Pipeline) -> None:
    text = encode_texts(one, CAPTIONS)
    assert text.context.shape == (3, 16, 32)
    assert text.pooled is None
    arguments = denoiser_conditions(one, text, size_conditions([SizeCondition((7, 5), (3, 2), (11, 13))] * 3))
    seen = seen_by_unet(one, prompt=list(CAPTIONS))
    assert list(arguments) == ["encoder_hidden_states"]
    assert torch.equal(text.context, seen["encoder_hidden_states"])
    assert seen["added_cond_kwargs"] is None


@torch.no_grad()
def test_two_encoders_are_as_in_the_pipeline(two: Pipeline) -> None:
    text = encode_texts(two, CAPTIONS)
    assert text.pooled is not None
    assert (text.context.shape, text.pooled.shape) == ((3, 16, 32 + 24), (3, 20))
    sizes = size_conditions([SizeCondition((7, 5), (3, 2), (11, 13))] * 3)
    arguments = denoiser_conditions(two, text, sizes)
    seen = seen_by_unet(
        two, prompt=list(CAPTIONS), original_size=(7, 5), crops_coords_top_left=(3, 2), target_size=(11, 13)
    )
    assert torch.equal(text.context, seen["encoder_hidden_states"])
    expected, found = seen["added_cond_kwargs"], arguments["added_cond_kwargs"]
    assert isinstance(found, dict)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@torch.no_grad()
def test_without_sizes_the_base_s_own_is_told(two: Pipeline) -> None:
    assert family_of(two).base_side(two) == 32
    arguments = denoiser_conditions(two, encode_texts(two, CAPTIONS))
    added = arguments["added_cond_kwargs"]
    assert isinstance(added, dict)
    assert torch.equal(added["time_ids"], seen_by_unet(two, prompt=list(CAPTIONS))["added_cond_kwargs"]["time_ids"])


@torch.no_grad()
def test_the_unet_takes_the_arguments(one: Pipeline, two: Pipeline) -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for pipe in (one, two):
        out: Tensor = pipe.unet(latents, 500, **denoiser_conditions(pipe, encode_texts(pipe, CAPTIONS))).sample
        assert out.shape == latents.shape


def test_gradients_reach_every_encoder(two: Pipeline) -> None:
    text = encode_texts(two, ["a cat"])
    assert text.pooled is not None
    (text.context.sum() + text.pooled.sum()).backward()
    for encoder in text_encoders(two):
        assert encoder.get_input_embeddings().weight.grad is not None  # type: ignore[operator]
        encoder.zero_grad()


def test_sizes_are_rows_of_six() -> None:
    rows = size_conditions([SizeCondition((2, 3), (5, 7), (11, 13)), SizeCondition((17, 19), (23, 29), (31, 37))])
    assert rows.tolist() == [[2, 3, 5, 7, 11, 13], [17, 19, 23, 29, 31, 37]]
    assert size_conditions([]).shape == (0, 6)
