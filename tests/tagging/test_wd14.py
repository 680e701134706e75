"""The ONNX tagger on a small real model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bwlab.errors import BwlabError
from bwlab.tagging.tagger import Tag
from bwlab.tagging.wd14 import load, model_input, read_tags, tag_text
from tests.tagging.conftest import BLUE, RED, ROWS

WriteModel = Callable[..., Path]


def describe(options: Mapping[str, str], *colours: tuple[int, int, int]) -> list[list[str]]:
    images = [Image.new("RGB", (8, 8), colour) for colour in colours]
    return [[tag.text for tag in tags] for tags in load(options)(images)]


def test_tags_are_those_of_the_colours(wd14: WriteModel) -> None:
    options = {"model": str(wd14()), "threshold": "0.4", "character_threshold": "0.9"}
    assert describe(options, RED, BLUE) == [["red colour"], ["captain blue (sea)", "blue colour"]]


def test_thresholds_are_apart_for_characters(wd14: WriteModel) -> None:
    model = str(wd14())
    assert describe({"model": model, "threshold": "0.4", "character_threshold": "0.95"}, BLUE) == [["blue colour"]]
    assert describe({"model": model, "threshold": "0.1"}, BLUE) == [["captain blue (sea)", "blue colour", "^_^"]]


def test_the_rating_comes_first_if_asked(wd14: WriteModel) -> None:
    options = {"model": str(wd14()), "rating": "true", "threshold": "0.4"}
    assert describe(options, RED) == [["general", "red colour"]]


def test_scores_are_the_model_s(wd14: WriteModel) -> None:
    ((tag,),) = load({"model": str(wd14()), "threshold": "0.4"})([Image.new("RGB", (5, 5), RED)])
    assert isinstance(tag, Tag)
    assert tag.score == pytest.approx(250 / 255)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_model_of_a_fixed_batch_size_tags_any_number(wd14: WriteModel, batch: int) -> None:
    options = {"model": str(wd14(batch=batch)), "threshold": "0.4", "character_threshold": "1"}
    assert describe(options, RED, BLUE, RED) == [["red colour"], ["blue colour"], ["red colour"]]


def test_the_input_is_bgr_on_a_white_square() -> None:
    wide = Image.new("RGB", (12, 4), RED)
    array = model_input(wide, 12)
    assert array.shape == (12, 12, 3)
    assert array.dtype == np.float32
    assert array[6, 6].tolist() == [10.0, 10.0, 250.0]
    assert array[0, 6].tolist() == array[11, 0].tolist() == [255.0, 255.0, 255.0]


@pytest.mark.parametrize(
    ("name", "text"),
    [("long_hair", "long hair"), ("^_^", "^_^"), ("o_o", "o_o"), ("1girl", "1girl"), ("a,_b_cd", "a  b cd")],
)
def test_names_become_tags(name: str, text: str) -> None:
    assert tag_text(name) == text


def test_tags_beside_the_model_or_elsewhere(wd14: WriteModel, tmp_path: Path) -> None:
    model = wd14()
    other = model.with_name("selected_tags.csv").rename(tmp_path / "tags.csv")
    assert len(read_tags(other)) == len(ROWS)
    assert describe({"model": str(model), "tags": str(other), "threshold": "0.4"}, RED) == [["red colour"]]
    with pytest.raises(BwlabError, match="No such file"):
        describe({"model": str(model)}, RED)


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "holds no tags"), ("name,category\n", "holds no tags"), ("a,b\nc,d\n", "not a CSV with the columns"),
     ("name,category\nx\n", "not a CSV with the columns")],
)  # fmt: skip
def test_a_wrong_csv_is_an_error(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "selected_tags.csv").write_text(content)
    with pytest.raises(BwlabError, match=says):
        read_tags(tmp_path / "selected_tags.csv")


def test_a_csv_of_another_model_is_an_error(wd14: WriteModel) -> None:
    with pytest.raises(BwlabError, match=r"gives \(7,\) numbers per image, for 5 tags"):
        load({"model": str(wd14(rows=ROWS[:5]))})


def test_a_model_without_a_fixed_size_is_an_error(wd14: WriteModel) -> None:
    with pytest.raises(BwlabError, match=r"its input is \['batch', 'size', 'size', 3\]"):
        load({"model": str(wd14(size="size"))})


def test_a_missing_or_damaged_model_is_an_error(wd14: WriteModel) -> None:
    model = wd14()
    with pytest.raises(BwlabError, match="no model is given"):
        load({})
    model.write_bytes(b"no model")
    with pytest.raises(BwlabError, match="onnxruntime cannot load it"):
        load({"model": str(model)})
    model.unlink()
    with pytest.raises(BwlabError, match="no such file"):
        load({"model": str(model)})


def test_without_onnxruntime_it_says_what_to_install(wd14: WriteModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wd14()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BwlabError, match=r"pip install 'bwlab\[onnx\]'"):
        load({"model": str(model)})


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("threshold", "1.5", "from 0 to 1"), ("threshold", "nan", "from 0 to 1"), ("character_threshold", "x", "from 0"),
     ("rating", "yes", "neither true nor false")],
)  # fmt: skip
def test_a_wrong_option_is_an_error(wd14: WriteModel, option: str, value: str, says: str) -> None:
    with pytest.raises(BwlabError, match=says):
        load({"model": str(wd14()), option: value})
