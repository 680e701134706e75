"""The tokenizer knows its world word by word."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTokenizer

from bwlab_emoji.text import MAX_TOKENS, new_text_encoder, new_tokenizer

WORDS = ("apple", "red", "redder", "background", "noto")


def test_each_word_of_the_world_is_one_token() -> None:
    tokenizer = new_tokenizer(WORDS)
    assert [len(tokenizer.tokenize(word)) for word in WORDS] == [1] * len(WORDS)
    assert len(tokenizer.tokenize("unheard")) > 1


def test_the_saved_tokenizer_reads_captions_alike(tmp_path: Path) -> None:
    tokenizer = new_tokenizer(WORDS)
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    caption = "noto, Red Apple, zebra 7"
    ids = tokenizer(caption, padding="max_length").input_ids
    assert again(caption, padding="max_length").input_ids == ids
    assert len(ids) == MAX_TOKENS


def test_different_words_start_far_apart() -> None:
    tokenizer = new_tokenizer(WORDS)
    encoder = new_text_encoder(tokenizer, seed=5)
    ids = tokenizer(["apple", "red"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        first, second = encoder(ids)[0][:, 1]
    assert torch.cosine_similarity(first, second, dim=0) < 0.5
