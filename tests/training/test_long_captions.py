"""Captions longer than the text encoder reads at once: 14 tokens here, each a letter."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from bwlab.base.load import load_base
from bwlab.errors import BwlabError
from bwlab.generation.sample import encode
from bwlab.training.prepare import TrainingSetup, prepare
from bwlab.training.run_folder import ExistingRun
from tests.dataset.small_data import WriteData
from tests.training.runs import plugins, run, same_tensors, short_config
from tests.training.test_train_command import arguments, call

LONG = "a sly red fox, by the sea"  # 18 letters and a comma: two chunks
LONGER = ", ".join([LONG] * 3)
CPU = torch.device("cpu")


@pytest.fixture
def three_lengths(write_data: WriteData) -> Path:
    """Return a folder of images with a short, a long and a very long caption."""
    return write_data({"a.png": "fox", "b.png": LONG, "c.png": LONGER})


def prepared(base: Path, data: Path, out: Path, *sets: str) -> TrainingSetup:
    return prepare(short_config(base, data, out, *sets), plugins(), Console(quiet=True))


@torch.no_grad()
@pytest.mark.parametrize(("tokens", "chunks"), [(75, 1), (150, 2), (225, 3)])
@pytest.mark.parametrize("blocks", ["mid=1", "te=1"])
def test_captions_are_read_in_chunks_as_prompts_are(
    tiny_pipeline: Path, three_lengths: Path, tmp_path: Path, tokens: int, chunks: int, blocks: str
) -> None:
    sets = f"data.max_tokens={tokens}", f"adapter.blocks={blocks}"
    setup = prepared(tiny_pipeline, three_lengths, tmp_path, *sets)
    with setup.trainable.attached(setup.pipe):
        context = setup.texts.batch(["fox", LONG], CPU).context
    assert context.shape[:2] == (2, chunks * 16)
    if chunks == 2:
        torch.testing.assert_close(context, encode(load_base(tiny_pipeline), ["fox", LONG], 1.0, "")["prompt_embeds"])
    else:
        longest = setup.pipe.tokenizer.model_max_length
        expected = encode(load_base(tiny_pipeline), ["fox"], 1.0, "")["prompt_embeds"]
        assert expected is not None
        torch.testing.assert_close(context[:1, :longest], expected)


@torch.no_grad()
def test_sdxl_reads_both_encoders_in_chunks(tiny_xl_pipeline: Path, three_lengths: Path, tmp_path: Path) -> None:
    setup = prepared(tiny_xl_pipeline, three_lengths, tmp_path, "data.max_tokens=150", "adapter.blocks=mid=1")
    text, expected = setup.texts.batch(["fox", LONG], CPU), encode(load_base(tiny_xl_pipeline), ["fox", LONG], 1.0, "")
    torch.testing.assert_close(text.context, expected["prompt_embeds"])
    torch.testing.assert_close(text.pooled, expected["pooled_prompt_embeds"])


@torch.no_grad()
def test_the_layer_is_skipped_in_every_chunk(tiny_pipeline: Path, three_lengths: Path, tmp_path: Path) -> None:
    sets = "data.max_tokens=150", "training.clip_skip=2", "adapter.blocks=mid=1"
    setup = prepared(tiny_pipeline, three_lengths, tmp_path, *sets)
    expected = encode(load_base(tiny_pipeline), ["fox", LONG], 1.0, "", clip_skip=2)["prompt_embeds"]
    torch.testing.assert_close(setup.texts.batch(["fox", LONG], CPU).context, expected)


def test_the_setting_is_trained_and_recorded(tiny_pipeline: Path, three_lengths: Path, tmp_path: Path) -> None:
    small = ("--blocks", "mid=2", "--steps", "3")
    assert call(arguments(tiny_pipeline, three_lengths, tmp_path / "one", *small)) == 0
    assert call(arguments(tiny_pipeline, three_lengths, tmp_path / "two", *small, "--set", "data.max_tokens=150")) == 0
    one, two = (tmp_path / name / "adapter.safetensors" for name in ("one", "two"))
    assert not same_tensors(one, two)
    for path, length in ((one, "None"), (two, "150")):
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["ss_max_token_length"] == length


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (75, "2 captions longer than 14 tokens and cut there (data.max_tokens reads more)"),
        (150, "1 caption longer than 28 tokens and cut there (data.max_tokens reads more)"),
        (225, "1 caption longer than 42 tokens and cut there (data.max_tokens is at its most)"),
    ],
)
def test_a_run_says_how_many_captions_are_cut(
    tiny_pipeline: Path, three_lengths: Path, tmp_path: Path, tokens: int, said: str
) -> None:
    text = io.StringIO()
    sets = f"data.max_tokens={tokens}", "adapter.blocks=mid=1", "training.steps=1"
    run(short_config(tiny_pipeline, three_lengths, tmp_path / "out", *sets), console=Console(file=text, width=200))
    assert said in text.getvalue().splitlines()


def test_a_run_is_not_resumed_with_another_length(tiny_pipeline: Path, three_lengths: Path, tmp_path: Path) -> None:
    sets = "training.steps=1", "adapter.blocks=mid=1"
    run(short_config(tiny_pipeline, three_lengths, tmp_path / "out", *sets))
    longer = short_config(tiny_pipeline, three_lengths, tmp_path / "out", *sets, "data.max_tokens=150")
    with pytest.raises(BwlabError, match=r"data\.max_tokens is 150, but was 75"):
        run(longer, existing=ExistingRun.RESUME)


def test_another_number_is_one_line(
    tiny_pipeline: Path, three_lengths: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments(tiny_pipeline, three_lengths, tmp_path / "out", "--set", "data.max_tokens=100")) == 2
    assert "data.max_tokens = 100: unknown. Did you mean 150? Choose from 75, 150, 225" in capsys.readouterr().err
