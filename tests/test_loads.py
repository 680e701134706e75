"""Copies of pipelines that the tests make in place of reading them again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from bwlab.base import load
from bwlab.base.load import load_base, weights_hash
from bwlab.base.models import family_of
from tests.loads import Loads


def loaded_afresh(folder: Path) -> Any:
    kept = load.load_folder
    assert isinstance(kept, Loads)
    return kept.load(folder, str(folder), torch.float32)


def test_a_copy_equals_what_is_read_and_no_other_copy_sees_its_changes(tiny_pipeline: Path) -> None:
    read, first, second = loaded_afresh(tiny_pipeline), load_base(tiny_pipeline), load_base(tiny_pipeline)
    assert weights_hash(read) == weights_hash(first) == weights_hash(second)
    assert family_of(first) is family_of(second) is family_of(read)
    assert type(first) is type(read)
    assert [name for name, _ in first.unet.named_modules()] == [name for name, _ in read.unet.named_modules()]
    assert dict(first.scheduler.config) == dict(read.scheduler.config)
    tokens = read.tokenizer("ink, fox")["input_ids"]
    assert first.tokenizer("ink, fox")["input_ids"] == tokens
    assert first.tokenizer.decode(tokens) == read.tokenizer.decode(tokens)
    first.tokenizer.add_tokens("<fox>")
    assert len(second.tokenizer) == len(read.tokenizer) < len(first.tokenizer)
    assert not first.unet.training
    assert {p.requires_grad for p in first.unet.parameters()} == {p.requires_grad for p in read.unet.parameters()}
    with torch.no_grad():
        next(iter(first.unet.parameters())).add_(1)
    assert weights_hash(first) != weights_hash(second) == weights_hash(load_base(tiny_pipeline))


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    from tests.conftest import save_tiny_pipeline

    folder = save_tiny_pipeline(tmp_path / "base")
    before = weights_hash(load_base(folder))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(0, 0))  # a clock may be coarse
    assert weights_hash(load_base(folder)) != before
