"""New words: what is trained, what files other tools read, and that a pipeline is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from bwlab.base.conditioning import encode_texts
from bwlab.base.load import load_base
from bwlab.errors import BwlabError
from bwlab.training.config import TokensConfig
from bwlab.training.textual_inversion import new_token_embeddings
from tests.training.runs import files_in, run, short_config

CAPTION = "ink, <fox> on a log"


def config_of(*words: str, initial: str = "ab", vectors: int = 3) -> TokensConfig:
    return TokensConfig(words=words, initial=initial, vectors=vectors)


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_file_loads_in_diffusers_and_means_the_same(tiny_pipeline: Path, tmp_path: Path, vectors: int) -> None:
    pipe = load_base(tiny_pipeline)
    words = new_token_embeddings(config_of("<fox>", "<owl>", vectors=vectors), pipe)
    assert words is not None
    with torch.no_grad():
        words.rows[0].normal_(generator=torch.Generator().manual_seed(0))
        with words.attached(pipe):
            ours = encode_texts(pipe, [CAPTION, "<owl>"]).context
    paths = words.save(tmp_path)
    assert [path.name for path in paths] == ["<fox>.safetensors", "<owl>.safetensors"]
    tensors = safetensors.torch.load_file(paths[0])
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == {"<fox>": (vectors, 32)}
    other = load_base(tiny_pipeline)
    for path in paths:
        other.load_textual_inversion(str(path))
    with torch.no_grad():
        theirs = encode_texts(other, [CAPTION, "<owl>"]).context
    assert torch.equal(ours, theirs)


def test_the_pipeline_is_afterwards_what_it_was(tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    tokenizer, layer, size = pipe.tokenizer, pipe.text_encoder.get_input_embeddings(), len(pipe.tokenizer)
    state = {name: tensor.clone() for name, tensor in pipe.text_encoder.state_dict().items()}
    words = new_token_embeddings(config_of("<fox>"), pipe)
    assert words is not None
    with words.attached(pipe):
        assert len(pipe.tokenizer) == size + 3
    with pytest.raises(ZeroDivisionError), words.attached(pipe):
        raise ZeroDivisionError
    assert pipe.tokenizer is tokenizer
    assert len(tokenizer) == size
    assert pipe.text_encoder.get_input_embeddings() is layer
    assert pipe.text_encoder.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in pipe.text_encoder.state_dict().items())


def test_new_words_have_the_embeddings_of_the_initial_text(tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    words = new_token_embeddings(config_of("<fox>", initial="q", vectors=1), pipe)
    assert words is not None
    with torch.no_grad(), words.attached(pipe):
        both = encode_texts(pipe, ["a <fox> b", "a q b"]).context
    assert torch.equal(both[0], both[1])


def test_gradients_reach_the_rows_of_the_words_and_nothing_else(tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    pipe.text_encoder.requires_grad_(False)
    words = new_token_embeddings(config_of("<fox>", "<owl>"), pipe)
    assert words is not None
    with words.attached(pipe):
        encode_texts(pipe, [CAPTION]).context.square().sum().backward()
    gradient = words.rows[0].grad
    assert gradient is not None
    assert bool(gradient[:3].any(dim=1).all())
    assert not bool(gradient[3:].any()), "the other word stands in no caption"
    assert all(parameter.grad is None for parameter in pipe.text_encoder.parameters())


def test_words_train_alone_or_with_an_adapter(tiny_pipeline: Path, two_words: Path, tmp_path: Path) -> None:
    sets = "tokens.words=<fox>", "tokens.vectors=2", "training.steps=2", "preview.enabled=true", "preview.steps=2"
    alone = run(short_config(tiny_pipeline, two_words, tmp_path / "alone", *sets, "tokens.alone=true"))
    assert alone == tmp_path / "alone" / "<fox>.safetensors"
    assert "adapter.safetensors" not in files_in(tmp_path / "alone")
    kept = "checkpoint.every=1", "checkpoint.keep=1"
    run(short_config(tiny_pipeline, two_words, tmp_path / "both", *sets, *kept, "preview.prompts=<fox>"))
    steps = [f"checkpoints/step-000002{end}" for end in ("-<fox>.safetensors", ".safetensors", ".state.safetensors")]
    previews = ["previews/step-000002-0.png"]
    assert files_in(tmp_path / "both") == [
        "<fox>.safetensors",
        "adapter.safetensors",
        *steps,
        "config.toml",
        "log.jsonl",
        *previews,
    ]
    pipe = load_base(tiny_pipeline)
    start = new_token_embeddings(config_of("<fox>", initial="*", vectors=2), pipe)
    assert start is not None
    for out in ("alone", "both"):
        learned = safetensors.torch.load_file(tmp_path / out / "<fox>.safetensors")["<fox>"]
        assert not torch.equal(learned, start.rows[0].detach())
        torch.testing.assert_close(learned, start.rows[0].detach(), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        (["tokens.words=a b"], "it holds ' '"),
        (["tokens.words=a/b"], "it holds '/'"),
        (["tokens.words=<Fox>"], "Write <fox>"),
        (["tokens.words=q"], "the base knows that word already"),
        (["tokens.words=adapter"], "the adapter's file has that name"),
        (["tokens.words=<fox>", "output.name=<fox>"], "output.name = '<fox>': it holds '<'"),
        (['tokens.words=["<fox>", "<fox>s"]'], "it is part of '<fox>s'"),
        (['tokens.words=["<fox>", "<fox>"]'], "it is part of '<fox>'"),
        (["tokens.words=<bear>"], "it is in no caption"),
        (["tokens.alone=true"], "no words are given"),
        (["tokens.words=<fox>", "training.optimizer=prodigy", "tokens.lr=1e-3"], "it takes one rate"),
    ],
)
def test_bad_words_are_refused(
    tiny_pipeline: Path, two_words: Path, tmp_path: Path, sets: list[str], named: str
) -> None:
    with pytest.raises(BwlabError, match=named.replace("(", r"\(")):
        run(short_config(tiny_pipeline, two_words, tmp_path / "out", "training.steps=1", *sets))
    assert not (tmp_path / "out").exists()
