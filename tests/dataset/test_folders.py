"""Folders of images with captions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bwlab.dataset.config import DataConfig, RegularisationConfig
from bwlab.dataset.examples import dataset_hash
from bwlab.dataset.folders import read_dataset
from bwlab.errors import BwlabError
from tests.dataset.small_data import WriteData


def test_images_are_found_at_any_depth_with_their_captions(write_data: WriteData) -> None:
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
    assert read_dataset(config.replace(caption="a fox"))[0].caption == "a fox"
    assert read_dataset(config.replace(caption=""))[0].caption == ""


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


def test_the_hash_depends_on_content_and_not_on_paths(write_data: WriteData, tmp_path: Path) -> None:
    folder = write_data({"a.png": "fox", "b.png": "owl"})
    before = dataset_hash(read_dataset(DataConfig(folder=str(folder))))
    moved = folder.rename(tmp_path / "moved")
    assert dataset_hash(read_dataset(DataConfig(folder=str(moved)))) == before
    assert dataset_hash(read_dataset(DataConfig(folder=str(moved), repeats=2))) != before
    (moved / "a.txt").write_text("cat")
    assert dataset_hash(read_dataset(DataConfig(folder=str(moved)))) != before


def test_a_folder_name_is_the_caption_of_images_without_one(write_data: WriteData) -> None:
    folder = write_data({"25_sks fox/a.png": None, "25_sks fox/b.png": "own", "3_/c.png": "c"})
    config = DataConfig(folder=str(folder))
    found = {example.path.name: (example.caption, example.captioned) for example in read_dataset(config)}
    assert found == {"a.png": ("sks fox", False), "b.png": ("own", True), "c.png": ("c", True)}
    named = read_dataset(config.replace(caption="given"))
    assert [example.caption for example in named if not example.captioned] == ["given"]


@pytest.mark.parametrize("extension", [".caption", "caption"])
def test_captions_may_have_another_extension(write_data: WriteData, extension: str) -> None:
    folder = write_data({"a.b.png": None})
    (folder / "a.b.caption").write_text("fox")
    examples = read_dataset(DataConfig(folder=str(folder), caption_extension=extension))
    assert [example.caption for example in examples] == ["fox"]


@pytest.mark.parametrize("extension", ["", ".", "a/b"])
def test_an_extension_that_is_none_is_refused(write_data: WriteData, extension: str) -> None:
    config = DataConfig(folder=str(write_data({"a.png": "fox"})), caption_extension=extension)
    with pytest.raises(BwlabError, match=r"data\.caption_extension = '.*': not a file extension"):
        read_dataset(config)


def test_regularisation_has_the_prompt_where_it_has_no_caption(write_data: WriteData) -> None:
    folder = write_data({"new/a.png": "sks fox", "old/b.png": None, "old/5_x/c.png": "an owl"})
    config = DataConfig(folder=str(folder / "new"), repeats=7)
    examples = read_dataset(config, RegularisationConfig(folder=str(folder / "old"), prompt="a fox"))
    found = {example.path.name: (example.caption, example.repeats, example.regularisation) for example in examples}
    assert found == {"a.png": ("sks fox", 7, False), "b.png": ("a fox", 1, True), "c.png": ("an owl", 5, True)}
    with pytest.raises(BwlabError, match=r"regularisation\.folder = .*gone: no such folder"):
        read_dataset(config, RegularisationConfig(folder=str(folder / "gone")))


def test_settings_that_do_not_fit_together_are_refused(write_data: WriteData) -> None:
    folder = write_data({"a.png": "fox"})
    with pytest.raises(BwlabError, match=r"data\.folder = .* is given too"):
        read_dataset(DataConfig(folder=str(folder), dataset="a.toml"))
    with pytest.raises(BwlabError, match="without buckets there is no smaller size"):
        read_dataset(DataConfig(folder=str(folder), upscale=False))
    (folder / "a.toml").write_text("")
    with pytest.raises(BwlabError, match=r"a file, not a folder\. Give .* --dataset .*a\.toml"):
        read_dataset(DataConfig(folder=str(folder / "a.toml")))
