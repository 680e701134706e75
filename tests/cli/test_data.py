"""`bwlab data check`: all that is printed, and the exit code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from bwlab.cli.app import main
from bwlab.training.config import TrainConfig
from tests.dataset.files import write_png16

CHECKED = """\
Folders
folder | images | repeats | per epoch | without caption
data/25_sks fox | 3 | 25 | 75 | 1
data/more | 1 | 1 | 1 | -
class (regularisation) | 2 | 1 | 76 | 2
all | 6 | 152
Buckets
size | images | regularisation | cropped | at most | enlarged
32 x 32 | 3 | 2 | 0.0% | 0.0% | -
64 x 16 | 1 | - | 5.9% | 5.9% | 1
Tags (2 of 4)
tag | images
fox | 3
ink | 3
Broken images (1):
data/more/broken.png: unreadable (...)
Images that cannot be used (1):
caption of data/more/bare.png: bare.txt is missing or empty
Images in formats that bwlab does not read (1):
data/more/old.tif
Equal files (1):
data/25_sks fox/a.png = data/25_sks fox/b.png
Images that look the same (1):
class/x.png ~ class/y.png (0 of 63 bits differ)
Images smaller than their bucket, which will be enlarged (1):
data/more/wide.png
Captions longer than 14 tokens, cut there (see data.max_tokens) (1):
ink, fox, a tag that is long
bwlab train would stop. Correct the broken images and the images that cannot be used.
"""


def write(path: Path, width: int, height: int, seed: int, caption: str | None = None) -> None:
    """Write a captioned image of 4 x 4 patches; the same seed gives the same patches."""
    image = Image.frombytes("RGB", (4, 4), bytes((seed * 37 + index * index * 11) % 256 for index in range(48)))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((width, height), Image.Resampling.BICUBIC).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with every kind of image and mistake in `data` and `class`."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "data" / "25_sks fox"
    write(own / "a.png", 40, 40, 1, "ink, fox, a tag that is long")
    shutil.copy(own / "a.png", own / "b.png")
    (own / "b.txt").write_text("ink, fox, ink")
    write(own / "c.png", 41, 41, 2)
    more = tmp_path / "data" / "more"
    write(more / "wide.png", 62, 16, 3, "ink, fox")
    write(more / "bare.png", 40, 40, 4)
    write(more / "broken.png", 40, 40, 5, "ink")
    (more / "broken.png").write_bytes((more / "broken.png").read_bytes()[:60])
    (more / "old.tif").write_bytes(b"II*")
    write(tmp_path / "class" / "x.png", 48, 48, 6)
    with Image.open(tmp_path / "class" / "x.png") as image:
        image.save(tmp_path / "class" / "y.png", compress_level=0)
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit code, the printed lines, with `|` between the columns of tables, and the errors."""
    with pytest.raises(SystemExit) as end:
        main(["data", "check", *arguments])
    out, err = capsys.readouterr()
    # Pillow's messages differ between its versions.
    plain = re.sub(r"unreadable \(.*?\)", "unreadable (...)", out)
    lines = (re.sub(r" {2,}", " | ", line.strip()) for line in plain.splitlines())
    return int(end.value.code or 0), "".join(f"{line}\n" for line in lines if line.strip("─")), err


BUCKETS = "--set", "data.buckets=true", "--set", "data.bucket_step=8"


def test_everything_is_printed(folder: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = "--set", "regularisation.folder=class", "--set", "regularisation.prompt=fox"
    code, out, _ = check(capsys, "data", "--base", str(tiny_pipeline), "--tags", "2", *BUCKETS, *old)
    assert out == CHECKED
    assert code == 2


def test_json_has_all_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(capsys, "data", "--resolution", "32", *BUCKETS, "--json")
    found = json.loads(out)
    assert code == 2
    assert (found["schema"], found["schema_version"], found["trainable"], found["stops"]) == (
        "bwlab.data.check",
        2,
        4,
        True,
    )
    assert found["buckets"][1]["size"] == [64, 16]
    assert found["tags"][:2] == [["fox", 3], ["ink", 3]]
    assert found["broken"] == [{"path": "data/more/broken.png", "reason": "unreadable (...)"}]
    assert found["long_captions"] is None


def test_good_data_end_with_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(capsys, "class", "--set", "data.caption=fox")
    assert code == 0
    assert "Add --base or --resolution to see the buckets.\n" in out
    assert out.endswith("2 images can be trained.\n")


def test_what_is_skipped_does_not_stop(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(capsys, "data", "--set", "data.skip_broken=true", "--set", "data.caption=x")
    assert "Broken images (1):" in out
    assert code == 0


def test_nothing_to_train_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    code, out, _ = check(capsys, str(tmp_path))
    assert code == 2
    assert out.endswith("No image can be trained: bwlab train would stop.\n")


def test_dataset_files_and_settings_are_checked_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subsets = "\n".join(
        f"[[datasets.subsets]]\nimage_dir = '{name}'\nclass_tokens = 'x'\n{more}"
        for name, more in (("data/25_sks fox", "num_repeats = 3"), ("class", "is_reg = true"))
    )
    (folder / "set.toml").write_text(f"[[datasets]]\nresolution = 32\nbatch_size = 2\n{subsets}\n")
    code, out, _ = check(capsys, "set.toml")
    assert code == 0
    assert "set.toml: datasets[0]: batch_size has no effect; training.batch_size counts for all\n" in out
    assert "data/25_sks fox | 3 | 3 | 9 | 1\n" in out
    assert "32 x 32 | 3 | 2 | 0.0% | 0.0% | -\n" in out
    config = "[data]\ndataset = 'set.toml'\n[regularisation]\nfolder = 'new'\ngenerate = 3\nprompt = 'x'\n"
    (folder / "run.toml").write_text(config)
    code, out, _ = check(capsys, "run.toml", "--resolution", "32")
    assert code == 0
    assert "regularisation.folder = new: still empty; 3 images will be generated\n" in out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone", "bwlab: error: --data gone: no such folder. Give a folder of images with captions\n"),
        ("gone.toml", "bwlab: error: data.dataset = gone.toml: no such file. Give the path of a dataset TOML\n"),
    ],
)
def test_a_missing_source_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    assert check(capsys, source) == (2, "", message)


def test_sixteen_bit_images_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    write_png16(tmp_path / "a.png", np.full((5, 7, 3), 999, np.uint16))
    code, _, _ = check(capsys, str(tmp_path), "--set", "data.caption=grey", "--resolution", str(8))
    assert code == 0
    assert TrainConfig().data.skip_broken is False


def data_folder(folder: Path, captions: Mapping[str, str | None]) -> Path:
    """Write different images and their captions (None: no file), and return their folder."""
    for seed, (name, caption) in enumerate(captions.items()):
        write(folder / name, 40, 40, seed, caption)
    return folder


def notes_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, int, list[str]]:
    """Return the exit code, the number of images that can be trained, and the notes."""
    code, out, _ = check(capsys, *arguments, "--json")
    found = json.loads(out)
    return code, found["trainable"], found["notes"]


def test_what_lies_beside_images_is_read_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_folder(
        tmp_path / "data", {"a.JPG": None, "b.jfif": "fox, ink", "@eaDir/c.jpg": None, "._a.jpg": None}
    )
    (folder / "A.TXT").write_bytes("\ufeffa fox,\r\nink".encode("utf-16-le"))
    for name in ("d.heic", "e.jxl", "f.CR2", "Thumbs.db", "desktop.ini", "clip.mp4"):
        (folder / name).touch()
    code, out, _ = check(capsys, str(folder))
    assert code == 0
    assert "a fox | 1\n" in out
    assert "2 images in hidden files and in folders of the system left out: " in out
    assert "Images in formats that bwlab does not read (3):\n" in out
    assert out.endswith("2 images can be trained.\n")


def test_links_are_followed_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = data_folder(tmp_path / "source", {"a.png": "fox", "b.png": "fox"})
    folder = data_folder(tmp_path / "data", {"c.png": "fox"})
    (folder / "5_fox").symlink_to(source)
    assert notes_of(capsys, str(folder)) == (0, 3, [])
    (folder / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "link").symlink_to(folder)
    for data in (folder, tmp_path / "link"):
        code, trainable, notes = notes_of(capsys, str(data))
        assert (code, trainable) == (0, 3)
        assert notes == [
            f"{data / 'gone.png'}: a dead link; nowhere.png does not exist or cannot be read",
            f"{data / 'loop'}: a link to {folder}, which is read already or contains the link; it is not followed",
        ]


def test_captions_of_another_ending_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_folder(tmp_path / "data", {"a.png": None, "b.jpg": None})
    for name in ("a.png.txt", "b.jpg.txt"):
        (folder / name).write_text("fox")
    code, out, _ = check(capsys, str(folder))
    assert code == 2
    assert (
        f"caption of {folder / 'a.png'}: a.txt is missing or empty, but a.png.txt is there. Rename it to a.txt, or "
        in out
    )
    fix = "data.caption_extension = .jpg.txt or .png.txt reads captions"
    _, _, notes = notes_of(capsys, str(folder), "--set", "data.caption=owl")
    assert [note.endswith(fix) for note in notes] == [True]
    assert notes_of(capsys, str(folder), "--set", "data.caption_extension=.png.txt") == (0, 2, [])


def test_captions_that_look_wrong_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = ("Robo, white", "robo, whte", "robo, white", "a robot that stands")
    folder = data_folder(tmp_path / "data", {f"{index}.png": caption for index, caption in enumerate(captions)})
    code, out, _ = check(capsys, str(folder))
    assert code == 0
    assert 'Similar tags: "Robo" (1 image: 0.png) and "robo" (2 images: 1.png, 2.png)\n' in out
    assert 'Similar tags: "whte" (1 image: 1.png) and "white" (2 images: 0.png, 2.png)\n' in out
    assert "1 caption without commas, and 3 with commas: 3.png\n" in out


def test_one_image_is_one_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_folder(tmp_path / "data", {"a.png": "fox"})
    _, out, _ = check(capsys, str(folder), "--set", "regularisation.folder=new", "--set", "regularisation.generate=1")
    assert "regularisation.folder = new: still empty; 1 image will be generated\n" in out
    assert out.endswith("1 image can be trained.\n")
