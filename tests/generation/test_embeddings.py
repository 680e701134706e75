"""Words with embeddings: every kind of file, prompts as diffusers reads them, and tokenizers that forget."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from bwlab.base.conditioning import encode_texts
from bwlab.base.models import text_encoders
from bwlab.errors import BwlabError
from bwlab.formats.dialects.textual_inversion import Embedding, embeddings_of, read_embedding
from bwlab.formats.tensors import LazyTensor
from bwlab.generation.embeddings import attach_words, tokens_of
from tests.conftest import TINY_WIDTH, XL_SECOND_WIDTH

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


def vectors(count: int, width: int = TINY_WIDTH, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def embedding(word: str, count: int = 1, **widths: int) -> Embedding:
    widths = widths or {"te": TINY_WIDTH}
    return Embedding(word, {name: vectors(count, width).numpy() for name, width in widths.items()})


def written(path: Path, content: Any, metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path, metadata)
    else:
        torch.save(content, path)
    return path


A1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors(3)}, "name": "ink-style", "step": 7}


@pytest.mark.parametrize(
    ("name", "content", "word", "count"),
    [
        ("a.safetensors", {"<ink>": vectors(1)[0]}, "<ink>", 1),
        ("a.safetensors", {"<ink>": vectors(2)}, "<ink>", 2),
        ("a.bin", {"<ink>": vectors(1)[0]}, "<ink>", 1),
        ("easy.safetensors", {"emb_params": vectors(3)}, "easy", 3),
        ("b.pt", A1111, "ink-style", 3),
        ("b.pt", {**A1111, "string_to_token": {"*": torch.tensor(265)}}, "ink-style", 3),
        ("c.safetensors", {"<ink>": vectors(2).half()}, "<ink>", 2),
    ],
)
def test_files_of_every_tool(tmp_path: Path, name: str, content: Any, word: str, count: int) -> None:
    found = read_embedding(written(tmp_path / name, content))
    assert (found.word, {key: rows.shape for key, rows in found.vectors.items()}) == (word, {"te": (count, TINY_WIDTH)})
    assert found.vectors["te"].dtype == np.float32
    assert np.allclose(found.vectors["te"], vectors(count).numpy(), atol=2e-3)
    assert read_embedding(tmp_path / name, "other").word == "other"


def test_files_for_sdxl(tmp_path: Path) -> None:
    content = {"clip_g": vectors(2, XL_SECOND_WIDTH), "clip_l": vectors(2)}
    found = read_embedding(written(tmp_path / "ink.safetensors", content))
    assert (found.word, list(found.vectors)) == ("ink", ["te", "te2"])
    assert found.vectors["te2"].shape == (2, XL_SECOND_WIDTH)
    assert read_embedding(written(tmp_path / "x.safetensors", content, {"name": "<s1>"})).word == "<s1>"


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch was_run",)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.safetensors", {"one": vectors(1), "two": vectors(1)}, "2 tensors"),
        ("a.safetensors", {"one": torch.zeros(2, 3, 4)}, r"shape \(2, 3, 4\)"),
        ("a.safetensors", {"one": torch.zeros(0, 4)}, r"shape \(0, 4\)"),
        ("a.safetensors", {"one": torch.full((2, 4), torch.nan)}, "8 of the 8 numbers of one are NaN"),
        ("a.safetensors", {"clip_l": vectors(1), "clip_g": vectors(2)}, "1 and 2 vectors"),
        ("a.pt", {"one": "text"}, "it holds no tensors"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, name: str, content: Any, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        read_embedding(written(tmp_path / name, content))


def test_a_hostile_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"<ink>": Evil()}))
    with pytest.raises(BwlabError, match="could run code"):
        read_embedding(tmp_path / "evil.pt")
    with pytest.raises(BwlabError, match="No such file"):
        read_embedding(tmp_path / "none.pt")
    assert not (tmp_path / "was_run").exists()


def test_words_inside_adapter_files() -> None:
    first, second = vectors(1)[0].numpy(), vectors(2, XL_SECOND_WIDTH).numpy()
    found = embeddings_of(
        {"<s1>": LazyTensor.of(first), "<s2>": LazyTensor.of(second), "te2:<s2>": LazyTensor.of(second)}
    )
    assert [(one.word, list(one.vectors)) for one in found] == [("<s1>", ["te"]), ("<s2>", ["te", "te2"])]
    assert found[0].vectors["te"].shape == (1, TINY_WIDTH)


def test_a_word_is_its_vectors_and_is_forgotten(pipe: Pipeline) -> None:
    encoder: Any = pipe.text_encoder
    tokenizer: Any = pipe.tokenizer
    layer = encoder.get_input_embeddings()
    kept = (id(layer), id(layer.weight), layer.weight.detach().numpy().tobytes(), len(tokenizer), id(tokenizer))
    plain, prompt = tokenizer("a <Ink> b").input_ids, "a <Ink>, b"
    with attach_words(pipe, [embedding("<Ink>", 3)]):
        for written_so in (prompt, prompt.lower()):
            tokens = pipe.tokenizer(pipe.maybe_convert_prompt(written_so, pipe.tokenizer)).input_ids
            assert torch.equal(encoder.get_input_embeddings()(torch.tensor(tokens[2:5])), vectors(3))
        assert tokenizer("<Ink><Ink>").input_ids[1:-1] == [tokenizer.convert_tokens_to_ids("<Ink>")] * 2
        assert tokenizer("<inks>").input_ids == tokenizer("< inks>").input_ids  # words only
        known = encode_texts(pipe, [prompt]).context
    assert tokenizer("a <Ink> b").input_ids == plain
    layer = encoder.get_input_embeddings()
    assert kept == (id(layer), id(layer.weight), layer.weight.detach().numpy().tobytes(), len(tokenizer), id(tokenizer))
    assert not torch.equal(known, encode_texts(pipe, [prompt]).context)


def test_diffusers_own_loader_makes_the_same_of_it(tiny_pipeline: Path, pipe: Pipeline, tmp_path: Path) -> None:
    from bwlab.base.load import load_base

    theirs: Any = load_base(tiny_pipeline)
    file = written(tmp_path / "ink.safetensors", {"<ink>": vectors(3)})
    theirs.load_textual_inversion(str(file))
    with attach_words(pipe, [read_embedding(file)]):
        ours = encode_texts(pipe, ["a <ink> fox"]).context
    assert torch.equal(ours, encode_texts(theirs, ["a <ink> fox"]).context)


def test_an_exception_leaves_nothing(xl_pipe: Pipeline) -> None:
    sizes = [len(xl_pipe.tokenizer), len(xl_pipe.tokenizer_2)]
    encoders: list[Any] = list(text_encoders(xl_pipe))
    weights = [encoder.get_input_embeddings().weight for encoder in encoders]
    with (
        pytest.raises(KeyboardInterrupt),
        attach_words(xl_pipe, [embedding("<ink>", 2, te=TINY_WIDTH, te2=XL_SECOND_WIDTH)]),
    ):
        raise KeyboardInterrupt
    assert [len(xl_pipe.tokenizer), len(xl_pipe.tokenizer_2)] == sizes
    after = [encoder.get_input_embeddings().weight for encoder in encoders]
    assert all(weight is own for weight, own in zip(after, weights, strict=True))


def test_both_encoders_of_sdxl_and_the_end_of_the_text(xl_pipe: Pipeline) -> None:
    """Configs of old CLIPs make transformers pool at the highest token, which would be the word's."""
    one = embedding("<ink>", 2, te=TINY_WIDTH, te2=XL_SECOND_WIDTH)
    encoder: Any = xl_pipe.text_encoder_2
    model = next(module for module in encoder.modules() if hasattr(module, "eos_token_id"))
    own, plain = model.eos_token_id, encode_texts(xl_pipe, ["a <ink> b"])
    with attach_words(xl_pipe, [one]):
        right = encode_texts(xl_pipe, ["a <ink> b"])
    model.eos_token_id = 2
    try:
        with attach_words(xl_pipe, [one]):
            old = encode_texts(xl_pipe, ["a <ink> b"])
        assert model.eos_token_id == 2
    finally:
        model.eos_token_id = own
    assert right.pooled is not None
    assert old.pooled is not None
    assert plain.pooled is not None
    assert torch.equal(right.pooled, old.pooled)
    assert not torch.equal(right.pooled, plain.pooled)
    for part in (slice(0, TINY_WIDTH), slice(TINY_WIDTH, None)):
        assert not torch.equal(right.context[..., part], plain.context[..., part])


def test_rows_go_where_the_tokenizer_says(pipe: Pipeline) -> None:
    """Some text encoders have more rows than their tokenizer has tokens."""
    layer = pipe.text_encoder.get_input_embeddings()
    own = layer.weight
    layer.weight = torch.nn.Parameter(torch.cat([own.detach(), torch.zeros(5, TINY_WIDTH)]))
    try:
        with attach_words(pipe, [embedding("<ink>", 2)]):
            assert len(layer.weight) == len(own) + 5
            assert torch.equal(layer.weight[len(own) : len(own) + 2], vectors(2))
    finally:
        layer.weight = own


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["two words"], "must not contain white space"),
        (["a,b"], "must not contain white space or commas"),
        (["a"], "already has this word"),
        (["<ink>", "<INK>"], "given twice"),
        (["<ink>", "<ink>2"], "part of '<ink>2'"),
    ],
)
def test_words_that_cannot_be_told_apart(pipe: Pipeline, words: list[str], found: str) -> None:
    with pytest.raises(BwlabError, match=found), attach_words(pipe, [embedding(word) for word in words]):
        raise AssertionError("unreachable")


def test_embeddings_of_another_architecture(pipe: Pipeline, xl_pipe: Pipeline) -> None:
    wide, both = embedding("<ink>", te=768), embedding("<ink>", te=TINY_WIDTH, te2=XL_SECOND_WIDTH)
    bad = [(pipe, wide, "768 wide, and this base's text embeddings 32"), (pipe, both, r"32 \+ 24 wide")]
    for base, one, found in [*bad, (xl_pipe, embedding("<ink>"), r"32 wide, and this base's text embeddings 32 \+ 24")]:
        with pytest.raises(BwlabError, match=found), attach_words(base, [one]):
            raise AssertionError("unreachable")


def test_tokens_have_diffusers_names() -> None:
    assert tokens_of(embedding("<ink>", 3)) == ["<ink>", "<ink>_1", "<ink>_2"]
    assert tokens_of(embedding("<Ink>", 2)) == ["<Ink>", "<Ink>_1", "<ink>", "<ink>_1"]
