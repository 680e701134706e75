"""What commands say on standard error: progress without a terminal, JSON lines, and quiet calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bwlab import messages
from bwlab.cli.app import main
from bwlab.messages import LogFormat, Messages, ProgressLines, reporting
from bwlab.terminal import ProgressBar, note, stderr_console, warn


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    """Return a folder with two captioned images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("fox", "orange"), ("owl", "brown")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"noto, {name}")
    return folder


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print a line of progress for every item."""
    monkeypatch.setattr(messages, "LINES_AFTER", 0.0)
    monkeypatch.setattr(messages, "LINES_EVERY", 0.0)


def run(options: Sequence[str], two_images: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Train three steps, and return what was printed as a result and beside it."""
    words = ["train", "--base", "emoji", "--data", str(two_images), "--out", str(out), "--blocks", "in0=2"]
    with pytest.raises(SystemExit) as end:
        main([*options, *words, "--steps", "3", "--device", "cpu", "--set", "preview.steps=1"])
    assert end.value.code == 0
    printed = capsys.readouterr()
    return printed.out, printed.err


@pytest.mark.usefixtures("at_once")
def test_a_training_says_how_far_it_is(two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run([], two_images, tmp_path / "run", capsys)
    lines = err.splitlines()
    assert any(line.startswith("training steps: 3 of 3, 0 s left, epoch 6/6 loss ") for line in lines), err
    assert any(line.startswith("training steps: 1 of 3, ") for line in lines)


@pytest.mark.usefixtures("at_once")
def test_a_quiet_training_prints_its_result_alone(
    two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(["--quiet"], two_images, tmp_path / "run", capsys)
    assert err == ""
    assert out.splitlines()
    assert all(Path(line).is_file() for line in out.splitlines())


@pytest.mark.usefixtures("at_once")
def test_a_training_with_json_lines(two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(["--log-format", "json"], two_images, tmp_path / "run", capsys)
    assert Path(out.splitlines()[0]).is_file()
    records: list[dict[str, Any]] = [json.loads(line) for line in err.splitlines()]
    assert all(datetime.fromisoformat(record["time"]).tzinfo is not None for record in records)
    assert {record["level"] for record in records} == {"note", "progress"}
    steps = [record for record in records if record["message"] == "training steps"]
    assert [(record["done"], record["total"]) for record in steps] == [(1, 3), (2, 3), (3, 3)]
    assert steps[-1]["seconds_left"] == 0


@pytest.mark.parametrize("form", [["--log-format", "json"], ["--log-format=json"]])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["inspect", "none.safetensors"], "No such file or directory"),
        (["trian"], "no such command 'trian'"),
        (["inspect", "--nonsense"], "no such option: --nonsense"),
    ],
)
def test_errors_as_json(
    form: Sequence[str], words: Sequence[str], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*form, *words])
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    record = json.loads(printed.err)
    assert (record["level"], record["found"]) == ("error", found)
    assert record["message"] == f"{record['asked']}: {record['found']}. {record['fix']}"


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("form", list(LogFormat))
def test_warnings_are_always_printed_and_notes_unless_quiet(
    quiet: bool, form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    with reporting(Messages(quiet, form)):
        warn("a\nwarning\x1b[31m")
        note("a note")
        stderr_console().print("a table")
    lines = capsys.readouterr().err.splitlines()
    texts = [json.loads(line)["message"] for line in lines] if form is LogFormat.JSON else lines
    prefix = "" if form is LogFormat.JSON else "bwlab: warning: "
    assert texts[0] == rf"{prefix}a warning\x1b[31m"
    assert len(texts) == (1 if quiet else 3)
    assert quiet or (texts[1].endswith("a note") and texts[2] == "a table")


@dataclass
class Clock:
    """The time that progress goes by, in seconds."""

    now: float = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that stands; lines of progress come after two seconds of it, as for users."""
    clock = Clock()
    monkeypatch.setattr(messages, "LINES_AFTER", 2.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    return clock


def test_lines_of_progress_come_after_two_seconds_and_every_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ProgressLines("encoding images", 1000, 0)
    said = []
    for second in range(1, 101):
        clock.now = 100.0 + second
        lines.update(10 * second, 1000)
        if capsys.readouterr().err:
            said.append(second)
    assert said == [2, 32, 62, 92]
    clock.now += 30
    lines.update(1001, 2000, "fox.png")
    assert capsys.readouterr().err == "encoding images: 1001 of 2000, 2 min 10 s left, fox.png\n"
    unknown = ProgressLines("reading", None, 0)
    clock.now += 3
    unknown.update(7, None)
    assert capsys.readouterr().err == "reading: 7\n"


def test_what_was_done_before_says_nothing_of_the_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines("comparing", None, 0)
    lines.update(4000, 5000)
    clock.now += 10
    lines.update(4100, 5000)
    assert capsys.readouterr().err == "comparing: 4100 of 5000, 1 min 30 s left\n"


def test_the_time_left_of_a_stage_is_by_its_own_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines("measuring", None, 0)
    for done in range(1, 5):
        clock.now += 100
        lines.update(done, 4, "losses")
    capsys.readouterr()
    for done in range(1, 4):
        clock.now += 10
        lines.update(done, 6, "images")
    assert capsys.readouterr().err == "measuring: 3 of 6, 30 s left, images\n"


def test_a_quiet_bar_shows_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "LINES_AFTER", 0.0)
    with reporting(Messages(quiet=True)), ProgressBar("encoding images", 2) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""
