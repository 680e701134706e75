"""The zero-shot tagger on a tiny open_clip model with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from bwlab.errors import BwlabError
from bwlab.tagging.clip import Vocabulary, load, parse_vocabulary, select_tags
from tests.tagging.conftest import BLUE, RED, TINY_CLIP

WORDS = Vocabulary(("fox", "owl", "hat"), {"style": ("ink", "flat"), "shot": ("near", "far")})
IMAGES = [Image.new("RGB", (40, 30), colour) for colour in (RED, BLUE)]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("fox\nowl\nhat\nstyle: ink | flat\nshot: near | far\n")
    return tmp_path / "words.txt"


def test_the_best_of_each_group_and_the_sure_of_the_others() -> None:
    logits = torch.tensor([1.0, 3.0, 2.9, 0.0, 5.0, 2.0, 1.0])
    found = select_tags(logits, WORDS, 0.3, None)
    assert [tag.text for tag in found] == ["flat", "near", "owl", "hat"]
    shares = logits[:3].softmax(0)
    assert found[2].score == pytest.approx(float(shares[1]))
    assert found[0].score == pytest.approx(float(logits[3:5].softmax(0)[1]))


def test_with_a_bias_each_tag_stands_alone() -> None:
    logits = torch.tensor([9.0, 11.0, 12.0, 0.0, 0.0, 0.0, 0.0])
    found = select_tags(logits, WORDS, 0.5, -10.0)
    assert [tag.text for tag in found[2:]] == ["hat", "owl"]
    assert found[3].score == pytest.approx(1 / (1 + torch.tensor(-1.0).exp().item()))


def test_a_vocabulary_of_groups_alone() -> None:
    only = parse_vocabulary("style: ink | flat", "v")
    assert [tag.text for tag in select_tags(torch.tensor([1.0, 2.0]), only, 0.0, None)] == ["flat"]


def reference(folder: Path, words: list[str]) -> torch.Tensor:
    """Logits `(images, words)` by open_clip's own calls."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([f"a picture of {word}" for word in words])
    with torch.no_grad():
        images, texts, scale = model(torch.stack([preprocess(image) for image in IMAGES]), tokens)
    logits: torch.Tensor = scale * images @ texts.T
    return logits


def test_a_folder_of_config_and_weights_is_loaded_by_open_clip(clip_folder: Path, words: Path) -> None:
    describe = load({"model": str(clip_folder), "vocabulary": str(words), "threshold": "0"})
    for tags, logits in zip(describe(IMAGES), reference(clip_folder, ["fox", "owl", "hat"]), strict=True):
        scores = {tag.text: tag.score for tag in tags}
        assert scores.keys() >= {"fox", "owl", "hat"}
        for word, share in zip(("fox", "owl", "hat"), logits.softmax(0), strict=True):
            assert scores[word] == pytest.approx(float(share), abs=1e-5)


def test_a_known_name_with_a_file_of_weights_is_the_same(clip_folder: Path, words: Path, tmp_path: Path) -> None:
    (tmp_path / "bwlab-tiny.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "bwlab-tiny.json")
    weights = clip_folder / "open_clip_model.safetensors"
    named = load({"model": "bwlab-tiny", "pretrained": str(weights), "vocabulary": str(words), "threshold": "0"})
    assert len(named(IMAGES)) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, r"--model ViT-B-32: no weights are given\. Add --pretrained FILE"),
        ({"pretrained": "/nowhere/a.pt"}, "no such file: /nowhere/a.pt"),
        ({"model": "ViT-Z-99", "pretrained": "openai"}, "open_clip cannot load it"),
        ({"pretrained": "no_such_weights"}, "open_clip cannot load it"),
        ({"template": "an image"}, "no single {}"),
        ({"threshold": "2"}, "from 0 to 1"),
        ({"vocabulary": "/nowhere/words.txt"}, "No such file"),
    ],
)
def test_wrong_options_are_an_error(options: dict[str, str], says: str) -> None:
    with pytest.raises(BwlabError, match=says):
        load(options)


def test_a_folder_without_weights_is_an_error(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text((clip_folder / "open_clip_config.json").read_text())
    with pytest.raises(BwlabError, match="open_clip cannot load it"):
        load({"model": str(tmp_path)})
