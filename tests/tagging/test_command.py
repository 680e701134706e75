"""`bwlab tag` as it is typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bwlab.cli.app import main
from tests.cli.conftest import packages
from tests.plugins.conftest import FakePackages

__all__ = ["packages"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bwlab(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line; exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return int(stop.value.code or 0), output.out, output.err

    return run


def lines(text: str) -> list[str]:
    """Return the lines of a text, with `|` between the columns of tables."""
    return [re.sub(r" {2,}", " | ", line.strip()) for line in text.splitlines() if line.strip(" ─")]


def test_the_whole_output(bwlab: Run, images: Path, wd14: Callable[..., Path]) -> None:
    (images / "b.txt").write_text("a meadow")
    arguments = ("tag", images, "--tagger", "wd14", "--model", wd14(), "--threshold", "0.4", "--prefix", "ohwx")
    code, out, err = bwlab(*arguments)
    assert (code, err) == (0, "")
    assert lines(out) == [
        "action | captions | meaning",
        "new | 2 | written; there was no caption",
        "kept | 1 | kept; a person wrote or edited it",
        "most frequent tags: ohwx 2, red colour 1, a meadow 1, captain blue (sea) 1, blue colour 1",
    ]
    assert (images / "a.txt").read_text() == "ohwx, red colour"
    assert "refreshed" not in bwlab(*arguments)[1]


def test_a_dry_run_shows_the_captions(bwlab: Run, images: Path, wd14: Callable[..., Path]) -> None:
    arguments = ("--tagger", "wd14", "--model", wd14(), "--threshold", "0.4", "--dry-run", "--top", "1")
    code, out, _ = bwlab("tag", images, *arguments)
    assert code == 0
    assert lines(out)[:3] == [
        "a.txt (new): red colour",
        "b.txt (new): green colour",
        "below/c.txt (new): blue colour",
    ]
    assert "Dry run: nothing was written" in out
    assert list(images.rglob("*.txt")) == []


def test_clip_over_a_vocabulary(bwlab: Run, images: Path, clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("style: ink | flat\n")
    code, _, err = bwlab("tag", images, "--model", clip_folder, "--vocabulary", tmp_path / "words.txt")
    assert (code, err) == (0, "")
    assert {path.read_text() for path in images.rglob("*.txt")} <= {"ink", "flat"}


def test_a_broken_image_is_named_and_exits_1(bwlab: Run, images: Path, wd14: Callable[..., Path]) -> None:
    (images / "a.png").write_bytes(b"")
    code, out, err = bwlab("tag", images, "--tagger", "wd14", "--model", wd14())
    assert code == 1
    assert len(lines(err)) == 1
    assert "a.png: unreadable" in err
    assert "broken" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--append", "--overwrite"), "both --append and --overwrite are given"),
        (("--tagger", "wd"), "Known taggers: clip, wd14"),
        (("--set", "treshold=0.3"), "Did you mean threshold?"),
        (("--set", "threshold"), "not of the form key=value"),
        (("--set", "template={}", "--set", "template=x {}"), "another --set template is given too"),
        (("--set", "threshold=0.3", "--threshold", "0.2"), "--threshold is given too"),
        (("--tagger", "wd14", "--vocabulary", "v.txt"), "tagger wd14 with option vocabulary: it has no such option"),
        ((), "no weights are given"),
        (("--top", "0"), "--top"),
    ],
)
def test_mistakes_are_one_line(bwlab: Run, images: Path, arguments: tuple[str, ...], says: str) -> None:
    code, out, err = bwlab("tag", images, *arguments)
    assert (code, out) == (2, "")
    assert len(lines(err)) == 1
    assert says in err


def test_folders_that_are_none(bwlab: Run, tmp_path: Path) -> None:
    assert "no such folder" in bwlab("tag", tmp_path / "nowhere")[2]
    assert "no images in it" in bwlab("tag", tmp_path)[2]


FLAT = """
    from bwlab import hookimpl
    from bwlab.tagging.tagger import Tag, Tagger

    def load(options):
        return lambda images: [[Tag(options.get("word", "flat"), 1.0)] for _ in images]

    @hookimpl
    def bwlab_register_taggers():
        return [Tagger("flat", "all is flat", load, ("word",))]
"""


def test_a_tagger_of_a_plugin_is_used_and_listed(bwlab: Run, images: Path, packages: FakePackages) -> None:
    packages.install("bwlab-flat", "1.0", {"flat": FLAT})
    assert bwlab("tag", images, "--tagger", "flat", "--set", "word=round")[0] == 0
    assert (images / "a.txt").read_text() == "round"
    assert any(line.split(" | ")[:3] == ["flat", "tagger", "flat"] for line in lines(bwlab("plugins")[1]))


def test_of_two_taggers_of_one_name_the_first_is_taken_and_both_are_named(
    bwlab: Run, images: Path, packages: FakePackages
) -> None:
    packages.install("bwlab-flat", "1.0", {"flat": FLAT})
    packages.install("bwlab-other", "2.0", {"other": FLAT})
    code, _, err = bwlab("tag", images, "--tagger", "flat")
    assert code == 0
    assert err.count("bwlab: warning: ") == 1
    assert "bwlab-flat 1.0" in err
    assert "bwlab-other 2.0" in err
