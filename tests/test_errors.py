"""The nearest known name, and the hint that errors give."""

from __future__ import annotations

import pytest

from bwlab.errors import did_you_mean, nearest

BLOCKS = ("in0", "in1", "upper", "lower", "mid")


@pytest.mark.parametrize(("name", "near"), [("uper", "upper"), ("Mid", "mid"), ("IN1", "in1"), ("zzz", None)])
def test_the_nearest_name(name: str, near: str | None) -> None:
    assert nearest(name, BLOCKS) == near
    assert did_you_mean(name, BLOCKS) == (f"Did you mean {near}? " if near else "")


def test_the_known_name_keeps_its_case() -> None:
    assert nearest("vit-b-32", ["ViT-L-14", "ViT-B-32"]) == "ViT-B-32"


def test_of_names_equally_alike_the_longer_common_beginning_wins() -> None:
    assert nearest("sd15", ["sd21", "sd14"]) == "sd14"


def test_a_lower_cutoff_reaches_further() -> None:
    known = ["training.learning_rate"]
    assert nearest("training.lr", known, cutoff=0.7) is None
    assert nearest("training.lr", known, cutoff=0.4) == "training.learning_rate"
