"""Caption files of every name and encoding."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.dataset.captions import CaptionFiles, caption_path, decoded_text
from bwlab.dataset.config import DataConfig
from bwlab.dataset.folders import other_captions_note, read_dataset
from bwlab.errors import BwlabError
from tests.dataset.small_data import WriteData

E_ACUTE = unicodedata.normalize("NFC", "é")
DECOMPOSED = unicodedata.normalize("NFD", "é")


def captions_of(folder: Path, extension: str = ".txt", caption: str | None = None) -> list[str]:
    """Return the captions of a folder."""
    config = DataConfig(folder=str(folder), caption_extension=extension, caption=caption)
    return [example.caption for example in read_dataset(config)]


@pytest.mark.parametrize(
    ("image", "caption"),
    [
        ("B.JPG", "B.TXT"),
        ("b.jpg", "B.txt"),
        (f"{E_ACUTE}.png", f"{DECOMPOSED}.txt"),
        (f"{DECOMPOSED}.png", f"{E_ACUTE}.TXT"),
        (f"{E_ACUTE.upper()}.png", f"{DECOMPOSED}.txt"),
    ],
)
def test_letter_case_and_unicode_form_do_not_matter(write_data: WriteData, image: str, caption: str) -> None:
    folder = write_data({image: None})
    (folder / caption).write_text("fox")
    assert captions_of(folder) == ["fox"]


def test_the_exact_name_counts_first_and_belongs_to_its_image(write_data: WriteData) -> None:
    folder = write_data({"B.png": None, "b.png": None})
    (folder / "b.txt").write_text("owl")
    assert captions_of(folder, caption="none") == ["none", "owl"]
    (folder / "B.TXT").write_text("fox")
    assert captions_of(folder) == ["fox", "owl"]
    (folder / "B.txt").write_text("exact")
    assert captions_of(folder) == ["exact", "owl"]


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), min_size=1))
@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b""])
def test_every_marked_encoding_is_read(text: str, mark: bytes) -> None:
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(mark, "utf-8")
    assert decoded_text(mark + text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["fox", "a fox, ink\r\n", "ein Fuchs, Äste", "Ā, ink", "狐, 墨 ink"])
def test_utf_16_without_a_mark_is_recognised(text: str, encoding: str) -> None:
    assert decoded_text(text.encode(encoding)) == text


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xff\xfe\xfa", b"a\0b", b"\0\0\0\0"])
def test_what_is_no_text_is_an_error(write_data: WriteData, content: bytes) -> None:
    folder = write_data({"a.png": None})
    (folder / "a.txt").write_bytes(content)
    with pytest.raises(BwlabError, match="not readable as UTF-8 or UTF-16 text"):
        read_dataset(DataConfig(folder=str(folder)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_separates_tags(write_data: WriteData, end: str) -> None:
    folder = write_data({"a.png": None})
    (folder / "a.txt").write_bytes(f"ink{end}a fox, snow{end}".encode())
    assert captions_of(folder) == ["ink, a fox, snow"]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("a.caption", "set data.caption_extension = .caption"),
        ("A.CAPTION", "set data.caption_extension = .caption"),
        ("a.png.txt", "set data.caption_extension = .png.txt"),
        ("a.json", "JSON is not read: write the tags of a.json into a.txt"),
        ("a.png.json", "JSON is not read: write the tags of a.png.json into a.txt"),
    ],
)
def test_captions_of_another_ending_are_named(write_data: WriteData, name: str, fix: str) -> None:
    folder = write_data({"a.png": None})
    (folder / name).write_text("fox")
    with pytest.raises(BwlabError) as error:
        read_dataset(DataConfig(folder=str(folder)))
    assert error.value.found == f"a.txt is missing or empty, but {name} is there"
    assert fix in error.value.fix
    examples = read_dataset(DataConfig(folder=str(folder), caption="owl"))
    note = other_captions_note(examples)
    assert note is not None
    assert note.startswith(f"1 image without a caption, although there are files such as {folder / name}")


def test_a_caption_beside_the_target_of_a_link_is_named(write_data: WriteData, tmp_path: Path) -> None:
    source = write_data({"a.png": "fox"})
    link = tmp_path / "links" / "b.png"
    link.parent.mkdir()
    link.symlink_to(source / "a.png")
    with pytest.raises(BwlabError) as error:
        read_dataset(DataConfig(folder=str(link.parent)))
    assert error.value.found == f"b.txt is missing or empty, but {source / 'a.txt'} is there"
    assert error.value.fix == "Link or copy it to b.txt beside the linked image"
    assert captions_of(link.parent, caption="owl") == ["owl"]
    (link.parent / "b.txt").symlink_to(source / "a.txt")
    assert captions_of(link.parent) == ["fox"]


def test_captions_may_have_the_whole_name_of_their_image(write_data: WriteData) -> None:
    folder = write_data({"a.png": None, "b.jpg": None, "c.JPG": None})
    for name in ("a.png.txt", "b.jpg.txt", "C.jpg.TXT"):
        (folder / name).write_text(name[0])
    assert captions_of(folder, ".png.txt") == ["a", "b", "C"]
    assert caption_path(folder / "a.b.jpg", "v2.txt") == folder / "a.b.v2.txt"


def test_json_is_no_caption(write_data: WriteData) -> None:
    folder = write_data({"a.png": None})
    (folder / "a.json").write_text('{"tags": "fox"}')
    with pytest.raises(BwlabError, match="JSON, which is not read"):
        read_dataset(DataConfig(folder=str(folder), caption_extension=".json"))


def test_other_files_are_no_captions(write_data: WriteData) -> None:
    folder = write_data({"a.png": None, "b.png": "fox"})
    (folder / "a.npz").write_bytes(b"latents")
    (folder / "a.caption").touch()
    files = CaptionFiles()
    assert files.find_other(folder / "a.png", ".txt") is None
    assert files.find_other(folder / "b.png", ".txt") is None
    assert other_captions_note(read_dataset(DataConfig(folder=str(folder), caption="x"))) is None
