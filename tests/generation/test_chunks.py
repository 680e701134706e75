"""Prompts longer than the text encoder reads: 14 tokens here, each a letter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from bwlab.adapters.attach import ScaledAdapter
from bwlab.formats.dialects.textual_inversion import Embedding
from bwlab.generation.embeddings import attach_words
from bwlab.generation.sample import encode, generate
from bwlab.plugins.manager import PluginManager
from tests.conftest import TINY_WIDTH
from tests.generation.conftest import strong_adapter
from tests.generation.test_generate_command import Captured, call, common, pixels

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

FIRST, SECOND = "abcdefghijklmn", "opqrstu"
ALARMS = ("[transformers]", "indexing errors", "truncated", "Traceback")


def embedded(base: Pipeline, prompt: str, name: str = "prompt_embeds") -> Tensor:
    value: Tensor | None = encode(base, [prompt], 1.0, "")[name]
    assert value is not None
    return value


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_chunks_are_encoded_one_by_one(pipe: Pipeline, xl_pipe: Pipeline, family: str) -> None:
    base = pipe if family == "sd" else xl_pipe
    long = encode(base, [f"{FIRST} {SECOND}", "fox"], 5.0, "dog")
    expected = {
        "prompt_embeds": [(FIRST, SECOND), ("fox", "")],
        "negative_prompt_embeds": [("dog", ""), ("dog", "")],
    }
    for name, texts in expected.items():
        rows = [torch.cat([embedded(base, text) for text in row], dim=1) for row in texts]
        assert torch.allclose(long[name], torch.cat(rows), atol=1e-5), name
    if family == "sdxl":
        pooled = [embedded(base, text, "pooled_prompt_embeds") for text in (FIRST, "fox")]
        assert torch.allclose(long["pooled_prompt_embeds"], torch.cat(pooled), atol=1e-5)


def test_sdxl_negative_of_nothing_stays_zero(xl_pipe: Pipeline) -> None:
    contexts = encode(xl_pipe, [f"{FIRST} {SECOND}"], 5.0, "")
    positive, negative = contexts["prompt_embeds"], contexts["negative_prompt_embeds"]
    assert positive is not None
    assert negative is not None
    assert negative.shape == positive.shape
    assert bool((negative == 0).all()) == xl_pipe.config.force_zeros_for_empty_prompt


def test_a_chunk_ends_after_a_comma(pipe: Pipeline) -> None:
    pieces = torch.cat([embedded(pipe, text) for text in ("abcdef, gh,", "ijklmnopq")], dim=1)
    assert torch.allclose(embedded(pipe, "abcdef, gh, ijklmnopq"), pieces, atol=1e-5)


def test_vectors_of_a_word_count_as_tokens(pipe: Pipeline) -> None:
    rows = np.random.default_rng(0).normal(size=(3, TINY_WIDTH)).astype(np.float32)
    with attach_words(pipe, [Embedding("<x>", {"te": rows})]):
        assert embedded(pipe, "abcdefghijk <x>").shape[1] == 16
        assert embedded(pipe, "abcdefghijkl <x>").shape[1] == 32


def test_an_image_does_not_depend_on_longer_prompts_of_its_batch(pipe: Pipeline, manager: PluginManager) -> None:
    adapter = strong_adapter(pipe, manager, "all=2, te=2", seed=5, text=True)
    prompts = ["fox", f"{FIRST} {SECOND}", "owl", f"{SECOND} {FIRST}"]
    scales = torch.tensor([0.5, 1.0, 0.0, -0.5])
    together = generate(pipe, prompts, [0, 1, 2, 3], [ScaledAdapter(adapter, scales)], steps=2, batch_size=3)
    for index, prompt in enumerate(prompts):
        use = ScaledAdapter(adapter, float(scales[index]))
        alone = generate(pipe, [prompt], [index], [use], steps=2)[0]
        assert np.abs(np.asarray(together[index]).astype(int) - np.asarray(alone)).max() <= 1


@pytest.mark.parametrize("weighting", [(), ("--weighting", "a1111")])
def test_long_prompts_are_said_in_one_line(
    tiny_pipeline: Path, tmp_path: Path, capsys: Captured, weighting: tuple[str, ...]
) -> None:
    base = (*common(tiny_pipeline, tmp_path), *weighting)
    assert call(*base, "--prompt", f"{FIRST} {SECOND}", "--prompt", FIRST) == 0
    error = capsys.readouterr().err
    assert "bwlab: warning: the prompt 'abcdefghijklmn opqrstu' has more than the 14 tokens" in error
    assert "read in 2 chunks, as A1111 and kohya do" in error
    assert call(*base, "--prompt", "fox", "--negative", f"{FIRST} {SECOND}") == 0
    error += capsys.readouterr().err
    assert error.count("warning") == 2
    assert call(*base, "--prompt", "fox", "--negative", f"{FIRST} {SECOND}", "--cfg", "1") == 0
    assert call(*base, "--prompt", "fox") == 0
    last = capsys.readouterr().err
    assert last.count("warning") == last.count("has no effect: there is guidance only with --cfg above 1") == 1
    assert "tokens" not in last
    assert [alarm for alarm in ALARMS if alarm in error + last] == []
    long, cut = (pixels(tmp_path / f"000{n}-seed0.png") for n in range(2))
    assert (long != cut).any()


def test_compel_says_what_it_does_not_read(tiny_pipeline: Path, tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("compel")
    arguments = ("--weighting", "compel", "--prompt", f"(abcdefghij)1.5 klmn {SECOND}")
    assert call(*common(tiny_pipeline, tmp_path), *arguments) == 0
    error = capsys.readouterr().err
    assert "more than 14 tokens, of which --weighting compel reads the first 14: 7 tokens not read, from" in error
    assert f"{SECOND!r} on" in error
    assert [alarm for alarm in ALARMS if alarm in error] == []
