"""The embedded transformer: a few steps of its build give a folder that plain diffusers loads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from rich.console import Console

import bwlab
from bwlab.base.load import load_base
from bwlab_emoji.dit import BLOCKS, TOKENS, TransformerConfig, build_transformer, new_transformer, with_projection

CAPTION = "noto, tomato, white background"


def test_the_encoder_gives_what_the_embedded_base_reads() -> None:
    base = load_base("emoji")
    encoder = with_projection(base.text_encoder)
    tokens = base.tokenizer([CAPTION], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        own = base.text_encoder(tokens, output_hidden_states=True)
        found = encoder(tokens, output_hidden_states=True)
    torch.testing.assert_close(found.hidden_states[-2], own.hidden_states[-1])
    torch.testing.assert_close(found.text_embeds, own.pooler_output)


def test_an_untrained_transformer_predicts_nothing() -> None:
    model = new_transformer()
    assert len(model.transformer_blocks) == BLOCKS
    with torch.no_grad():
        output = model(
            torch.randn(1, 8, 16, 16), torch.randn(1, 5, 256), torch.randn(1, 256), torch.tensor([500.0])
        ).sample
    assert not output.any()


@pytest.mark.slow
@pytest.mark.usefixtures("little_at_once")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_build_writes_a_pipeline_and_continues(work: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    first = TransformerConfig(out=tmp_path / "dit", work=work, steps=1, coloured_from=0)
    build_transformer(first, console)
    assert sum(file.stat().st_size for file in first.out.rglob("*") if file.is_file()) < 30e6
    plain = StableDiffusion3Pipeline.from_pretrained(
        first.out, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )
    assert plain.tokenizer.model_max_length == TOKENS
    plain.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    theirs = plain(CAPTION, num_inference_steps=2, guidance_scale=3, generator=generator).images[0]
    ours = bwlab.generate(bwlab.load_base(first.out), CAPTION, seeds=[3], steps=2, cfg=3)[0]
    assert np.abs(np.asarray(theirs, np.int16) - np.asarray(ours, np.int16)).max() <= 1
    build_transformer(TransformerConfig(out=tmp_path / "more", work=work, steps=2, coloured_from=0), console)
    state = torch.load(work / "dit.pt", weights_only=True)
    assert state["step"] == 2
