"""Folders of pictures with captions."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bwlab.errors import BwlabError
from bwlab.training.data.examples import dataset_hash
from bwlab.training.data.folders import read_dataset
from bwlab.training.data.pictures import UnreadablePicture, read_picture
from bwlab.training.data_config import DataConfig
from tests.training.small_data import WriteData


def test_pictures_are_found_at_any_depth_with_their_captions(write_data: WriteData) -> None:
    folder = write_data({"b.PNG": " ink ,, owl\n", "deep/er/a.jpg": "\ufeffflat, fox", ".hidden/c.png": "no"})
    (folder / "notes.md").write_text("not an image")
    examples = read_dataset(DataConfig(folder=str(folder)))
    assert [(example.path.name, example.caption) for example in examples] == [
        ("b.PNG", "ink, owl"),
        ("a.jpg", "flat, fox"),
    ]


def test_a_folder_name_states_its_repeats(write_data: WriteData) -> None:
    folder = write_data({"25_fox/a.png": "fox", "b.png": "owl", "2023/c.png": "cat"})
    examples = read_dataset(DataConfig(folder=str(folder), repeats=3))
    assert {example.path.name: example.repeats for example in examples} == {"a.png": 25, "b.png": 3, "c.png": 3}


def test_a_data_folder_may_itself_be_named_so(write_data: WriteData) -> None:
    folder = write_data({"7_fox/a.png": "fox"}) / "7_fox"
    assert [example.repeats for example in read_dataset(DataConfig(folder=str(folder)))] == [7]


def test_zero_repeats_are_refused(write_data: WriteData) -> None:
    folder = write_data({"0_fox/a.png": "fox"})
    with pytest.raises(BwlabError, match="0 repeats"):
        read_dataset(DataConfig(folder=str(folder)))


@pytest.mark.parametrize("caption", [None, "", " , \n"])
def test_a_missing_caption_needs_a_default(write_data: WriteData, caption: str | None) -> None:
    config = DataConfig(folder=str(write_data({"a.png": caption})))
    with pytest.raises(BwlabError, match=r"caption of .*a\.png: a\.txt is missing or empty"):
        read_dataset(config)
    assert read_dataset(replace(config, caption="a fox"))[0].caption == "a fox"
    assert read_dataset(replace(config, caption=""))[0].caption == ""


def test_a_caption_that_is_not_text_is_named(write_data: WriteData) -> None:
    folder = write_data({"a.png": None})
    (folder / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(BwlabError, match=r"caption .*a\.txt: not readable as UTF-8"):
        read_dataset(DataConfig(folder=str(folder)))


def test_an_empty_a_missing_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="no images in it"):
        read_dataset(DataConfig(folder=str(tmp_path)))
    with pytest.raises(BwlabError, match=f"--data {re.escape(str(tmp_path / 'no'))}: no such folder"):
        read_dataset(DataConfig(folder=str(tmp_path / "no")))
    with pytest.raises(BwlabError, match="no data folder given"):
        read_dataset(DataConfig())


def test_the_hash_follows_content_and_not_place(write_data: WriteData, tmp_path: Path) -> None:
    folder = write_data({"a.png": "fox", "b.png": "owl"})
    before = dataset_hash(read_dataset(DataConfig(folder=str(folder))))
    moved = folder.rename(tmp_path / "moved")
    assert dataset_hash(read_dataset(DataConfig(folder=str(moved)))) == before
    assert dataset_hash(read_dataset(DataConfig(folder=str(moved), repeats=2))) != before
    (moved / "a.txt").write_text("cat")
    assert dataset_hash(read_dataset(DataConfig(folder=str(moved)))) != before


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    pixels = np.zeros((13, 13, 4), np.uint8)
    pixels[:, :6] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", 13)
    assert picture.shape == (3, 13, 13)
    assert picture.dtype is torch.float32
    assert picture[:, 5, 2].tolist() == [1.0, -1.0, -1.0]
    assert picture[:, 5, 10].tolist() == [1.0, 1.0, 1.0]


def test_the_centre_of_a_wide_picture_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", 10)
    assert picture.min() == 1.0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_reads_as_colour(tmp_path: Path, mode: str) -> None:
    grey = Image.new("L", (11, 11), 128)
    image = Image.fromarray(np.full((11, 11), 128 << 8, np.uint16)) if mode == "I;16" else grey.convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    picture = read_picture(path, 11)
    assert picture.shape == (3, 11, 11)
    if mode != "1":
        assert picture.mean() == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_a_broken_image_is_named(write_data: WriteData, content: bytes | str) -> None:
    path = write_data({"a.png": "fox"}) / "a.png"
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:60])
    with pytest.raises(UnreadablePicture, match=r"image .*a\.png: unreadable"):
        read_picture(path, 16)
