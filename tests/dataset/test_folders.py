"""Folders of images with captions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bwlab.dataset.config import DataConfig, RegularisationConfig
from bwlab.dataset.examples import Subset, dataset_hash
from bwlab.dataset.folders import folder_notes, left_out_note, read_dataset
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


@pytest.mark.parametrize("name", ["100001_fox", "1000000000_fox", "9" * 200 + "_fox"])
def test_a_name_cannot_ask_for_endless_repeats(write_data: WriteData, name: str) -> None:
    folder = write_data({f"{name}/a.png": "fox"})
    with pytest.raises(BwlabError, match=r"its name asks for more than 100000 repeats\. Rename it"):
        read_dataset(DataConfig(folder=str(folder)))


def test_an_epoch_has_a_largest_size(write_data: WriteData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bwlab.dataset.folders.MOST_EXAMPLES", 7)
    folder = write_data({"4_fox/a.png": "fox", "3_owl/a.png": "owl"})
    assert len(read_dataset(DataConfig(folder=str(folder)))) == 2
    folder = write_data({"1_cat/a.png": "cat"})
    with pytest.raises(BwlabError, match=r"an epoch of 8 images with their repeats, of at most 7\. "):
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


def paths_in(folder: Path) -> list[str]:
    """Return the paths of the examples in a folder, as seen from there."""
    return [str(example.path.relative_to(folder)) for example in read_dataset(DataConfig(folder=str(folder)))]


def test_image_suffixes_count_in_any_letter_case(write_data: WriteData) -> None:
    folder = write_data({"a.JPG": "fox", "b.Png": "fox", "c.jfif": "fox", "d.JFIF": "fox", "e.jpe": "fox"})
    assert paths_in(folder) == ["a.JPG", "b.Png", "c.jfif", "d.JFIF", "e.jpe"]


@pytest.mark.parametrize(
    "name", ["__MACOSX", "$RECYCLE.BIN", "@eaDir", "lost+found", "Thumbs", ".thumbnails", ".ipynb_checkpoints"]
)
def test_folders_of_the_system_are_left_out(write_data: WriteData, name: str) -> None:
    folder = write_data({"a.png": "fox", f"{name}/b.png": "fox", f"deep/{name}/x/b.png": "fox", "._a.png": "fox"})
    assert paths_in(folder) == ["a.png"]
    note = left_out_note([Subset(DataConfig(folder=str(folder)), "--data")])
    assert note is not None
    assert note.startswith("3 images in hidden files and in folders of the system left out: ")


def test_a_data_folder_may_lie_in_a_hidden_folder(write_data: WriteData) -> None:
    assert paths_in(write_data({".hidden/@eaDir/a.png": "fox"}) / ".hidden" / "@eaDir") == ["a.png"]


def test_linked_images_and_folders_are_read(write_data: WriteData, tmp_path: Path) -> None:
    source = write_data({"25_fox/a.png": "fox", "25_fox/deep/b.png": "owl", "c.png": "cat", "7_owl/d.png": "owl"})
    folder = tmp_path / "links"
    folder.mkdir()
    for name in ("25_fox", "c.png", "c.txt"):
        (folder / name).symlink_to(source / name)
    (folder / "3_bird").symlink_to(source / "7_owl")
    examples = read_dataset(DataConfig(folder=str(folder)))
    found = {str(example.path.relative_to(folder)): (example.caption, example.repeats) for example in examples}
    assert found == {
        "25_fox/a.png": ("fox", 25),
        "25_fox/deep/b.png": ("owl", 1),
        "3_bird/d.png": ("owl", 3),
        "c.png": ("cat", 1),
    }
    (tmp_path / "root").symlink_to(source / "25_fox")
    assert [example.repeats for example in read_dataset(DataConfig(folder=str(tmp_path / "root")))] == [25, 1]


def test_each_folder_is_read_once_whatever_links_lead_to_it(write_data: WriteData, tmp_path: Path) -> None:
    folder = write_data({"x/a.png": "fox", "y/b.png": "owl"})
    outside = tmp_path / "outside"
    outside.mkdir()
    links = {"loop": folder, "up": folder.parent, "same": folder / "y", "one": outside, "two": outside}
    for name, target in links.items():
        (folder / "x" / name).symlink_to(target)
    (outside / "back").symlink_to(folder / "x")
    assert paths_in(folder) == ["x/a.png", "y/b.png"]
    notes = list(folder_notes(Subset(DataConfig(folder=str(folder)), "--data")))
    assert [note.partition(":")[0] for note in notes] == [
        str(folder / "x" / name) for name in ("loop", "one/back", "same", "two", "up")
    ]
    assert all("not followed" in note for note in notes)


def test_dead_links_are_named(write_data: WriteData) -> None:
    folder = write_data({"a.png": "fox"})
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "self.png").symlink_to("self.png")
    notes = list(folder_notes(Subset(DataConfig(folder=str(folder)), "--data")))
    assert len(notes) == 2
    assert notes[0] == f"{folder / 'gone.png'}: a dead link; nowhere.png does not exist or cannot be read"
    (folder / "a.png").unlink()
    with pytest.raises(BwlabError, match=r"no images in it; 2 dead links \(.*gone\.png, .*self\.png\)"):
        read_dataset(DataConfig(folder=str(folder)))


def test_a_dead_link_to_a_caption_is_named(write_data: WriteData) -> None:
    folder = write_data({"a.png": None})
    (folder / "a.txt").symlink_to("nowhere.txt")
    with pytest.raises(BwlabError, match=r"a\.txt is a link to nowhere\.txt, which does not exist or cannot be read"):
        read_dataset(DataConfig(folder=str(folder)))


def test_a_folder_of_unread_images_says_so(tmp_path: Path) -> None:
    for name in ("a.HEIC", "b.heic", "c.jxl", "d.NEF"):
        (tmp_path / name).touch()
    with pytest.raises(
        BwlabError, match=r"no images in it; 4 files of a format that is not read \(.heic, .jxl, .nef\)"
    ):
        read_dataset(DataConfig(folder=str(tmp_path)))


def test_folders_below_repeats_are_named(write_data: WriteData) -> None:
    folder = write_data({"25_fox/a.png": "fox", "25_fox/more/b.png": "fox", "25_fox/3_x/c.png": "fox"})
    notes = list(folder_notes(Subset(DataConfig(folder=str(folder)), "--data")))
    reason = "1 image without the repeats of 25_fox, which count for its own images only"
    assert notes == [f"{folder / '25_fox' / 'more'}: {reason}"]


def test_subfolders_of_an_image_dir_are_named(write_data: WriteData) -> None:
    folder = write_data({"a.png": "fox", "deep/b.png": "fox", "text/c.png": None})
    (folder / "text" / "c.png").unlink()
    subset = Subset(DataConfig(folder=str(folder)), "image_dir", recursive=False)
    note = f"image_dir: images in its subfolders are not read, as in kohya's trainer: {folder / 'deep'}"
    assert list(folder_notes(subset)) == [note]


def test_a_folder_that_cannot_be_read_is_named(write_data: WriteData, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_data({"a.png": "fox", "locked/b.png": "fox"})
    entries = Path.iterdir

    def locked(self: Path) -> Iterator[Path]:
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return entries(self)

    monkeypatch.setattr(Path, "iterdir", locked)
    with pytest.raises(BwlabError, match=r"folder .*locked: Permission denied\. Make it readable"):
        read_dataset(DataConfig(folder=str(folder)))
