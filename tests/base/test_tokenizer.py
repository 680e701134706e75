"""CLIP's tokenizer: the numbers that open_clip's own gives."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from open_clip.tokenizer import SimpleTokenizer

import bwlab.base.tokenizer
from bwlab.base.tokenizer import BPE_FILE, clip_tokenizer
from bwlab.errors import BwlabError

TEXTS = (
    "",
    "a photo of a cat",
    "An Owl, ink on paper; 1234 feathers?",
    "it's the dog's bowl, they've said; (masterpiece:1.2), <lora> [x]",
    "Übergrößenträger, naïve café, 日本語 кот",
    "emoji 🦉 and tabs\tand  two   spaces",
    "supercalifragilisticexpialidocious " * 3,
)


def test_the_file_is_open_clip_s() -> None:
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    assert (Path(spec.submodule_search_locations[0]) / BPE_FILE).is_file()


@pytest.mark.parametrize(("pad", "number"), [("<|endoftext|>", 49407), ("!", 0)])
def test_numbers_are_open_clip_s(pad: str, number: int) -> None:
    ours, theirs = clip_tokenizer(pad), SimpleTokenizer()
    assert (len(ours), ours.model_max_length, ours.pad_token_id) == (49408, 77, number)
    # The two marks, the last numbers, have other names there.
    assert sorted(ours.get_vocab(), key=ours.get_vocab().get)[:-2] == list(theirs.encoder)[:-2]
    for text in TEXTS:
        expected = [49406, *theirs.encode(text), 49407]
        found = ours(text, padding="max_length", truncation=True).input_ids
        assert found == [*expected, *([number] * (77 - len(expected)))], text


def test_a_word_that_pads_is_the_pad_in_captions_too() -> None:
    # So it is in the diffusers folders of SD 2.x and SDXL, whose "!" is the token 0 and not, as in open_clip, 256.
    assert [clip_tokenizer(pad)("wow !").input_ids[2] for pad in ("!", "<|endoftext|>")] == [0, 256]


def test_long_captions_are_cut_before_the_end_mark() -> None:
    found = clip_tokenizer()("cat " * 100, truncation=True).input_ids
    assert (len(found), found[0], found[-1]) == (77, 49406, 49407)


def test_a_missing_vocabulary_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bwlab.base.tokenizer, "BPE_FILE", "none.txt.gz")
    with pytest.raises(BwlabError, match=r"none\.txt\.gz is not there"):
        clip_tokenizer()
