"""Weights in prompts, read by compel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from bwlab.adapters.attach import ScaledAdapter
from bwlab.base.load import load_base
from bwlab.errors import BwlabError
from bwlab.formats.dialects.textual_inversion import Embedding
from bwlab.generation.embeddings import attach_words
from bwlab.generation.job import WEIGHTINGS, require_weighting
from bwlab.generation.sample import encode, generate
from bwlab.plugins.manager import PluginManager
from tests.conftest import TINY_WIDTH
from tests.generation.conftest import strong_adapter

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

pytest.importorskip("compel")


@pytest.fixture(scope="module")
def xl(tiny_xl_pipeline: Path) -> Pipeline:
    return load_base(tiny_xl_pipeline)


@pytest.mark.parametrize("negative", ["", "dog"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_prompts_without_weights_are_read_as_ever(
    pipe: Pipeline, request: pytest.FixtureRequest, negative: str, family: str, cfg: float, weighting: str
) -> None:
    base = pipe if family == "sd" else request.getfixturevalue("xl")
    prompts = ["a fox", "an owl, white"]
    plain, weighted = (encode(base, prompts, cfg, negative, syntax) for syntax in (None, weighting))
    assert {name for name, value in plain.items() if value is not None} == {
        name for name, value in weighted.items() if value is not None
    }
    for name, value in plain.items():
        if value is not None:
            assert torch.allclose(value, weighted[name], atol=1e-5), name


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_weights_act_on_their_words(pipe: Pipeline, request: pytest.FixtureRequest, family: str) -> None:
    base = pipe if family == "sd" else request.getfixturevalue("xl")
    plain, more, less = (encode(base, [prompt], 1.0, "", "compel") for prompt in ("a fox", "a (fox)1.5", "a (fox)0.5"))
    contexts = [one["prompt_embeds"] for one in (plain, more, less)]
    assert all(context is not None for context in contexts)
    assert not torch.equal(contexts[0], contexts[1])
    assert not torch.equal(contexts[0], contexts[2])
    if family == "sdxl":
        assert torch.equal(plain["pooled_prompt_embeds"], more["pooled_prompt_embeds"])


def test_images_of_one_batch_have_scales_of_their_own_on_the_text(pipe: Pipeline, manager: PluginManager) -> None:
    adapter = strong_adapter(pipe, manager, "te=4", 0, text=True)
    common: dict[str, Any] = {"steps": 1, "weighting": "compel"}
    images = generate(pipe, ["a (fox)0.5"] * 2, [1, 1], [ScaledAdapter(adapter, torch.tensor([0.5, 1.0]))], **common)
    images += [
        generate(pipe, ["a (fox)0.5"], [1], [ScaledAdapter(adapter, scale)], **common)[0] for scale in (0.5, 1.0)
    ]
    half, full, half_alone, full_alone = (np.asarray(image, float) for image in images)
    assert np.abs(half - half_alone).max() <= 1
    assert np.abs(full - full_alone).max() <= 1
    assert np.abs(half - full).max() > 1


def test_words_with_several_vectors_can_be_weighted(pipe: Pipeline) -> None:
    rows = np.random.default_rng(0).normal(size=(2, TINY_WIDTH)).astype(np.float32)
    with attach_words(pipe, [Embedding("<x>", {"te": rows})]):
        plain = encode(pipe, ["<x>"], 1.0, "")["prompt_embeds"]
        same = encode(pipe, ["<x>"], 1.0, "", "compel")["prompt_embeds"]
        more = encode(pipe, ["(<x>)1.5"], 1.0, "", "compel")["prompt_embeds"]
    assert plain is not None
    assert same is not None
    assert more is not None
    assert torch.allclose(plain, same, atol=1e-5)
    changed = (more - plain).abs().amax(-1)[0] > 1e-3
    assert changed[1:3].all()


@pytest.mark.parametrize(
    ("prompt", "found"), [('("a", "b").and()', "text of another length"), ("a fox.swap(owl)", "another sampling loop")]
)
def test_what_needs_another_loop_is_refused(pipe: Pipeline, prompt: str, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        encode(pipe, [prompt], 1.0, "", "compel")


def test_a_missing_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    require_weighting(None)
    with pytest.raises(BwlabError, match="Choose from compel, a1111"):
        require_weighting("compl")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BwlabError, match=r"pip install 'bwlab\[weighting\]'"):
        require_weighting("compel")
