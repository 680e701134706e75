"""SDXL: two text encoders, pooled text and sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console

from bwlab.base.conditioning import denoiser_conditions, encode_texts
from bwlab.base.load import load_base
from bwlab.plugins.events import RunRecord
from bwlab.training.config import TokensConfig
from bwlab.training.prepare import prepare
from bwlab.training.textual_inversion import new_token_embeddings
from bwlab.training.trainer import Trainer
from tests.training.runs import files_in, plugins, run, short_config


def test_the_unet_gets_text_pooled_text_and_the_sizes_of_the_examples(
    tiny_xl_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    config = short_config(tiny_xl_pipeline, two_images, tmp_path / "out", "adapter.blocks=out2=2")
    setup = prepare(config, plugins(), Console(quiet=True))
    trainer = Trainer(config, setup, plugins())
    given: list[dict[str, torch.Tensor]] = []
    setup.pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(
            {"context": kwargs["encoder_hidden_states"], **kwargs["added_cond_kwargs"]}
        ),
        with_kwargs=True,
    )
    with setup.trainable.attached(setup.pipe):
        trainer.train_step(RunRecord("", "", "", "", "", {}, 1, 0, 2, 1, 0, ""))
    drawn = setup.data.sample(0, 2, 0)
    base = load_base(tiny_xl_pipeline)  # the text encoders of the run have left memory
    with torch.no_grad():
        text = encode_texts(base, drawn.captions)
    wanted = denoiser_conditions(base, text, drawn.sizes)["added_cond_kwargs"]
    assert isinstance(wanted, dict)
    torch.testing.assert_close(given[0]["context"], text.context)
    torch.testing.assert_close(given[0]["text_embeds"], wanted["text_embeds"])
    assert torch.equal(given[0]["time_ids"], drawn.sizes)


def test_blocks_and_both_text_encoders_are_trained(tiny_xl_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.steps=2", "adapter.blocks=out0=2, te=3", "preview.enabled=true", "preview.steps=1"
    path = run(short_config(tiny_xl_pipeline, two_images, tmp_path / "out", *sets))
    ups = {key: tensor for key, tensor in safetensors.torch.load_file(path).items() if key.endswith("lora_up.weight")}
    for start in ("lora_unet_up_blocks_0_", "lora_te1_", "lora_te2_"):
        own = [tensor for key, tensor in ups.items() if key.startswith(start)]
        assert own, start
        # The text that conditions the UNet is that of the last but one layer, so the last one learns nothing.
        assert any(bool(tensor.any()) for tensor in own), start
    assert "previews/step-000002-0.png" in files_in(tmp_path / "out")


def test_words_of_two_encoders_load_in_diffusers(tiny_xl_pipeline: Path, tmp_path: Path) -> None:
    pipe = load_base(tiny_xl_pipeline)
    words = new_token_embeddings(TokensConfig(words=("<fox>",), initial="ab", vectors=2), pipe)
    assert words is not None
    with torch.no_grad():
        for rows in words.rows:
            rows.normal_(generator=torch.Generator().manual_seed(0))
        with words.attached(pipe):
            ours = encode_texts(pipe, ["ink, <fox>"])
    (path,) = words.save(tmp_path)
    tensors = safetensors.torch.load_file(path)
    assert sorted(tensors) == ["clip_g", "clip_l"]
    other = load_base(tiny_xl_pipeline)
    for key, encoder, tokenizer in (
        ("clip_l", other.text_encoder, other.tokenizer),
        ("clip_g", other.text_encoder_2, other.tokenizer_2),
    ):
        other.load_textual_inversion(tensors[key], token="<fox>", text_encoder=encoder, tokenizer=tokenizer)
    with torch.no_grad():
        theirs = encode_texts(other, ["ink, <fox>"])
    assert torch.equal(ours.context, theirs.context)
    assert ours.pooled is not None
    assert theirs.pooled is not None
    assert torch.equal(ours.pooled, theirs.pooled)


@pytest.mark.parametrize("alone", ["true", "false"])
def test_words_are_trained_in_both_encoders(
    tiny_xl_pipeline: Path, two_words: Path, tmp_path: Path, alone: str
) -> None:
    sets = "tokens.words=<fox>", f"tokens.alone={alone}", "training.steps=2", "adapter.blocks=mid=1"
    run(short_config(tiny_xl_pipeline, two_words, tmp_path / "out", *sets))
    learned = safetensors.torch.load_file(tmp_path / "out" / "<fox>.safetensors")
    start = new_token_embeddings(TokensConfig(words=("<fox>",)), load_base(tiny_xl_pipeline))
    assert start is not None
    for key, rows in zip(("clip_l", "clip_g"), start.rows, strict=True):
        assert not torch.equal(learned[key], rows.detach()), key
