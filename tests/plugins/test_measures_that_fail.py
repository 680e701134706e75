"""Metrics, measures and scorers of plugins that fail cost one cell and one line; commands that raise, one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from bwlab.cli.app import main
from bwlab_analysis.measures import FidelityScorer
from tests.plugins import typed_files
from tests.plugins.conftest import FakePackages

PLUGIN = "plugin shaky of bwlab-shaky 0.4"
SOURCE = """
    from bwlab import hookimpl
    from bwlab_analysis.measures import BlockMetric, ConflictMeasure, FidelityScorer, Measured

    def raising(*arguments):
        raise ValueError("no such thing")

    def one(*arguments):
        return {"one": 1.0}

    PAIRS = {
        "first_raises": (raising, one),
        "second_raises": (one, raising),
        "gives_nan": (one, lambda parts: Measured(float("nan"))),
        "gives_text": (one, lambda parts: "much"),
        "gives_list": (lambda delta: [1.0], one),
        "works": (one, lambda parts: Measured(float(len(parts)))),
    }

    @hookimpl
    def bwlab_register_block_metrics():
        return [BlockMetric(name, "made up", *pair) for name, pair in PAIRS.items()]

    @hookimpl
    def bwlab_register_conflict_measures():
        return [ConflictMeasure(name, "made up", *pair) for name, pair in PAIRS.items()]

    def load(kind):
        if kind == "load_raises":
            raise ImportError("no module named lpips")
        returned = {
            "score_raises": lambda images, against: 1 / 0,
            "score_nan": lambda images, against: [float("nan")] * len(images),
            "score_few": lambda images, against: [1.0],
            "score_works": lambda images, against: [0.25] * len(images),
        }
        return returned[kind]

    @hookimpl
    def bwlab_register_fidelity_scorers():
        names = ("load_raises", "score_raises", "score_nan", "score_few", "score_works")
        return [FidelityScorer(name, "style", "made up", lambda name=name: load(name)) for name in names]

    @hookimpl
    def bwlab_register_commands(app):
        @app.command("shake")
        def shake() -> None:
            raise LookupError("nothing to shake")
"""
REASONS = {
    "first_raises": "ValueError: no such thing",
    "second_raises": "ValueError: no such thing",
    "gives_nan": "of_block returned nan",
    "gives_text": "of_block returned str, not Measured or None",
    "gives_list": "of_module returned list, not numbers by name",
}
SCORERS = {
    "load_raises": "ImportError: no module named lpips",
    "score_raises": "ZeroDivisionError: division by zero",
    "score_nan": "it returned NaN or infinity",
    "score_few": "it returned 1 score for ",
}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the output of a command that has to succeed without a word on standard error."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert (end.value.code, shown.err) == (0, "")
    return shown.out


@pytest.fixture
def file(packages: FakePackages, tmp_path: Path) -> Path:
    packages.install("bwlab-shaky", "0.4", {"shaky": SOURCE})
    typed_files.save("lora", tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize("command", ["norms", "conflict"])
def test_of_weights(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    asked = ["analyze", command, file, *([file] if command == "conflict" else [])]
    report = json.loads(run(capsys, *asked, "--json"))
    blocks = [block["name"] for block in report["blocks"]]
    assert len(blocks) == 2
    for name, reason in REASONS.items():
        wanted = reason.replace("of_module", "of_pair") if command == "conflict" else reason
        for group in (*report["blocks"], *report["cells"], report["total"]):
            assert group[name] is None
        entries = [entry for entry in report["errors"] if entry["name"] == name]
        assert entries == [
            {"plugin": PLUGIN, "name": name, "block": block, "reason": wanted} for block in (*blocks, "all")
        ]
    assert report["total"]["works"]["value"] == sum(block["works"]["value"] for block in report["blocks"])
    shown = run(capsys, *asked)
    for name, reason in REASONS.items():
        wanted = reason.replace("of_module", "of_pair") if command == "conflict" else reason
        words = name.replace("_", " ")
        assert " ".join(shown.split()).count(f"No {words}: {PLUGIN}: {wanted}.") == 1
    assert "error" in shown


def fidelity(file: Path, folder: Path, *more: object) -> list[object]:
    """Return the arguments of a small measurement of fidelity."""
    for name in ("a", "b"):
        (folder / name).mkdir()
        Image.new("RGB", (64, 64), "red").save(folder / name / "one.png")
    prompts = folder / "prompts.txt"
    prompts.write_text("noto, fox, white background\n", encoding="utf-8")
    images = ["--id-images", folder / "a", "--style-images", folder / "b"]
    return [*images, "--prompts", prompts, "--seeds", 4, "--steps", 2, *more]


def test_of_images(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["analyze", "fidelity", "--adapter", file, "--adapter", file, *fidelity(file, tmp_path, "--no-blocks")]
    report = json.loads(run(capsys, *asked, "--json"))
    assert {entry["name"]: entry["plugin"] for entry in report["errors"]} == dict.fromkeys(SCORERS, PLUGIN)
    for entry in report["errors"]:
        assert entry["reason"].startswith(SCORERS[entry["name"]]) or entry["name"] == "score_few"
    for condition in report["conditions"]:
        assert condition["scores"]["score_works"]["mean"] == 0.25
        assert condition["scores"]["load_raises"] is None
        assert condition["scores"]["score_nan"] is None
        assert condition["scores"]["harmonic"] is not None
    shown = run(capsys, *asked)
    for name, reason in SCORERS.items():
        if name != "score_few":
            assert " ".join(shown.split()).count(f"No {name.replace('_', ' ')}: {PLUGIN}: {reason}.") == 1


def test_recommend_goes_on(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The built-in scorers are replaced by the distance from the first images generated, those of the base."""
    first: list[np.ndarray] = []
    references: set[bytes] = set()

    def distances(images: Sequence[Image.Image], against: Sequence[Any]) -> list[float]:
        references.update(image.tobytes() for image in against if isinstance(image, Image.Image))
        if images[0].tobytes() in references:
            return [2.0] * len(images)
        pixels = [np.asarray(image, np.float64) / 255 for image in images]
        first.extend(pixels if not first else [])
        return [float(np.abs(own - base).mean()) + 0.1 for own, base in zip(pixels, cycle(first), strict=False)]

    kinds: tuple[Literal["identity", "style", "text"], ...] = ("identity", "style", "text")
    built_in = [FidelityScorer(f"of_{kind}", kind, "made up", lambda: distances) for kind in kinds]
    monkeypatch.setattr("bwlab_analysis.fidelity.clip.built_in_scorers", lambda model: built_in)
    asked = ["analyze", "recommend", file, file, *fidelity(file, tmp_path, "--budget", 32, "--search-steps", 1)]
    report = json.loads(run(capsys, *asked, "--json"))
    assert {"load_raises", "score_raises", "score_nan"} <= {entry["name"] for entry in report["errors"]}
    assert report["trials"][0]["scores"]["score_raises"] is None
    assert report["trials"][0]["scores"]["score_works"]["mean"] == 0.25


def test_a_command_that_raises(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["shake"])
    shown = capsys.readouterr()
    assert end.value.code == 2
    assert shown.err.startswith(f"bwlab: error: bwlab shake: {PLUGIN} raised LookupError: nothing to shake. Report it")
    assert shown.err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["--debug", "shake"])
    assert 'LookupError("nothing to shake")' in capsys.readouterr().err
