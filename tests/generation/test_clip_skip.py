"""Clip skip: the layer of the text encoder that is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from bwlab.base.conditioning import encode_texts, layers_skipped, skip_layers
from bwlab.base.load import load_base
from bwlab.errors import BwlabError
from bwlab.generation.recipe import read_recipe
from bwlab.generation.sample import encode, generate
from tests.generation.test_generate_command import call, common, pixels

LONG = ", ".join(["ink", "fox", "owl"] * 6)  # several chunks


@pytest.fixture
def pipe(tiny_pipeline: Path) -> StableDiffusionPipeline:
    return load_base(tiny_pipeline)


def ids_of(pipe: StableDiffusionPipeline, text: str) -> torch.Tensor:
    ids: torch.Tensor = pipe.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


@torch.no_grad()
@pytest.mark.parametrize("skip", [1, 2])
def test_the_layer_is_that_of_the_hidden_states_with_the_final_norm(pipe: StableDiffusionPipeline, skip: int) -> None:
    states = pipe.text_encoder(ids_of(pipe, "ink, fox"), output_hidden_states=True).hidden_states
    expected = pipe.text_encoder.final_layer_norm(states[-skip])
    assert torch.equal(encode_texts(pipe, ["ink, fox"], skip).context, expected)
    assert torch.equal(encode(pipe, ["ink, fox"], 1.0, "", None, skip)["prompt_embeds"], expected)


@torch.no_grad()
def test_it_is_the_next_number_of_diffusers(pipe: StableDiffusionPipeline) -> None:
    # diffusers looks for the final norm where older versions of transformers had it.
    pipe.text_encoder.text_model = torch.nn.Module()
    pipe.text_encoder.text_model.final_layer_norm = pipe.text_encoder.final_layer_norm
    theirs = pipe.encode_prompt(["ink, fox"], pipe.device, 1, False, clip_skip=1)[0]
    del pipe.text_encoder.text_model
    assert torch.equal(encode_texts(pipe, ["ink, fox"], 2).context, theirs)
    assert not torch.equal(encode_texts(pipe, ["ink, fox"], 1).context, theirs)


@torch.no_grad()
@pytest.mark.parametrize("weighting", [None, "a1111", "compel"])
def test_every_way_to_read_a_prompt_skips(pipe: StableDiffusionPipeline, weighting: str | None) -> None:
    if weighting == "compel":
        pytest.importorskip("compel")
    text = LONG if weighting is None else "ink, fox"
    plain, skipped = (encode(pipe, [text], 7.0, "dull", weighting, skip) for skip in (1, 2))
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        one, two = plain[name], skipped[name]
        assert one is not None
        assert two is not None
        assert one.shape == two.shape
        assert not torch.allclose(one, two)
    if weighting == "a1111":
        unweighted = encode(pipe, [text], 7.0, "dull", None, 2)
        torch.testing.assert_close(skipped["prompt_embeds"], unweighted["prompt_embeds"])


def test_the_text_encoder_is_what_it_was(pipe: StableDiffusionPipeline) -> None:
    layers = pipe.text_encoder.encoder.layers

    def fail() -> None:
        with layers_skipped(pipe, 2):
            assert len(pipe.text_encoder.encoder.layers) == len(layers) - 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert pipe.text_encoder.encoder.layers is layers


def test_the_option_acts_and_is_recorded(tiny_pipeline: Path, pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    prompt = ("--prompt", "ink, fox", "--seed", "3", "--sampler", "euler")
    assert call(*prompt, *common(tiny_pipeline, tmp_path / "one")) == 0
    assert call(*prompt, *common(tiny_pipeline, tmp_path / "two"), "--clip-skip", "2") == 0
    one, two = tmp_path / "one" / "0000-seed3.png", tmp_path / "two" / "0000-seed3.png"
    assert (pixels(one) != pixels(two)).any()
    (same,) = generate(pipe, ["ink, fox"], [3], steps=2, sampler="euler", clip_skip=2)
    assert (pixels(two) == same).all()
    assert (read_recipe(one).clip_skip, read_recipe(two).clip_skip) == (1, 2)
    assert "Clip skip" not in read_recipe(one).parameters()
    assert ", Clip skip: 2, " in read_recipe(two).parameters()


def test_a_layer_that_is_not_there_is_one_line(
    tiny_pipeline: Path, tiny_xl_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = ("--prompt", "ink", "--clip-skip")
    assert call(*prompt, "3", *common(tiny_pipeline, tmp_path / "out")) == 2
    error = "bwlab: error: clip skip 3: the text encoder has 2 layers. Give 1 to 2\n"
    assert capsys.readouterr().err == error
    assert call(*prompt, "2", *common(tiny_xl_pipeline, tmp_path / "out")) == 2
    error = "SDXL always reads the last but one layer of its text encoders. Leave it out\n"
    assert capsys.readouterr().err == f"bwlab: error: clip skip 2: {error}"
    assert not (tmp_path / "out").exists()
    with pytest.raises(BwlabError, match="Give 1 to 2"):
        encode_texts(load_base(tiny_pipeline), ["ink"], 0)


@torch.no_grad()
def test_skipping_for_good_reads_the_same_layer_and_leaves_all_layers_in_place(pipe: StableDiffusionPipeline) -> None:
    expected, layers = encode_texts(pipe, ["ink, fox"], 2).context, pipe.text_encoder.encoder.layers
    skip_layers(pipe, 2)
    assert torch.equal(encode_texts(pipe, ["ink, fox"]).context, expected)
    assert pipe.text_encoder.encoder.layers is layers
    with pytest.raises(AttributeError):
        pipe.text_encoder("not ids")
    assert pipe.text_encoder.encoder.layers is layers
    with pytest.raises(BwlabError, match="clip skip 9"):
        skip_layers(pipe, 9)
