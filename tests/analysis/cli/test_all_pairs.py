"""`bwlab analyze conflict --out FILE`: all pairs of many adapters in a file that a later command continues."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bwlab.files import try_lock
from bwlab_analysis.measures import ConflictMeasure
from bwlab_analysis.weights import all_pairs
from bwlab_analysis.weights.adapter_weights import AdapterWeights
from bwlab_analysis.weights.conflict import ConflictReport, compared_weights
from tests.analysis.conftest import Outcome
from tests.analysis.kohya import SHAPES, adapter_tensors, write

Run = Callable[..., Outcome]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return five adapters."""
    return [write(tmp_path / f"{name}.safetensors", adapter_tensors(seed)) for seed, name in enumerate("abcde")]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return the path of the file of pairs."""
    return tmp_path / "pairs.jsonl"


def pairs_in(out: Path) -> list[tuple[str, str]]:
    return sorted((Path(line["a"]).stem, Path(line["b"]).stem) for line in lines_of(out))


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()[1:]]


def test_every_pair_has_the_numbers_of_the_command_for_two(bwlab: Run, files: list[Path], out: Path) -> None:
    outcome = bwlab("analyze", "conflict", *files, "--out", out, "--signs", "--cells")
    assert (outcome.code, outcome.err) == (0, "")
    assert "10 pairs of 5 adapters are in" in outcome.out
    lines = lines_of(out)
    assert len(lines) == 10
    line = next(line for line in lines if (line["a"], line["b"]) == (str(files[1]), str(files[3])))
    alone = json.loads(bwlab("analyze", "conflict", files[1], files[3], "--signs", "--json").out)
    assert json.loads(out.read_text().splitlines()[0])["measures"] == alone["measures"]
    for name in ("scheme", "blocks", "cells", "total", "shared_share_a", "verdict", "left_out_b", "errors"):
        assert near(line[name], alone[name]), name


def near(found: Any, expected: Any) -> bool:
    """Return whether two documents are equal, but for rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(near(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(near, found, expected))
    return bool(found == (pytest.approx(expected, rel=1e-9, abs=1e-9) if isinstance(expected, float) else expected))


def test_a_killed_command_is_continued(
    bwlab: Run, files: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line is cut, as when a process is killed while it writes; its pair is measured again."""
    bwlab("analyze", "conflict", *files, "--out", out)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:5]) + lines[5][:100])
    measured: list[tuple[str, str]] = []

    def compared(a: AdapterWeights, b: AdapterWeights, measures: Sequence[ConflictMeasure]) -> ConflictReport:
        measured.append((a.path.stem, b.path.stem))
        return compared_weights(a, b, measures)

    monkeypatch.setattr(all_pairs, "compared_weights", compared)
    outcome = bwlab("analyze", "conflict", *files, "--out", out, "--json")
    document = json.loads(outcome.out)
    assert (document["pairs"], document["measured_before"], len(measured)) == (10, 4, 6)
    assert "1 line is damaged or of an adapter that has changed" in outcome.err
    assert sorted(out.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert bwlab("analyze", "conflict", *files[::-1], "--out", out).code == 0
    assert len(measured) == 6


def test_bad_adapters_are_named_at_the_end(bwlab: Run, files: list[Path], out: Path) -> None:
    files[1].write_bytes(b"")
    files[4].unlink()
    outcome = bwlab("analyze", "conflict", *files, "--out", out)
    assert outcome.code == 2
    assert pairs_in(out) == [("a", "c"), ("a", "d"), ("c", "d")]
    assert "3 pairs of 3 adapters are in" in outcome.out
    assert [line.split(":")[2].strip() for line in outcome.err.splitlines()] == [
        f"reading adapter {file}" for file in (files[1], files[4])
    ]


def test_pairs_that_cannot_be_compared_are_not_counted_as_measured(bwlab: Run, files: list[Path], out: Path) -> None:
    wider = {path: (2 * out, *inner) for path, (out, *inner) in SHAPES.items()}
    write(files[1], adapter_tensors(1, shapes=wider))
    first = json.loads(bwlab("analyze", "conflict", *files[:3], "--out", out, "--json").out)
    again = json.loads(bwlab("analyze", "conflict", *files[:3], "--out", out, "--json").out)
    assert (first["pairs"], first["not_compared"]) == (1, 2)
    assert (again["pairs"], again["measured_before"]) == (1, 1)


def test_pairs_of_a_changed_adapter_are_measured_again_and_others_stay(
    bwlab: Run, files: list[Path], out: Path
) -> None:
    bwlab("analyze", "conflict", *files, "--out", out)
    before = lines_of(out)
    write(files[0], adapter_tensors(77))
    document = json.loads(bwlab("analyze", "conflict", *files[:3], "--out", out, "--json").out)
    assert (document["pairs"], document["measured_before"]) == (3, 1)
    assert pairs_in(out) == [tuple(pair) for pair in ("ab", "ac", "bc", "bd", "be", "cd", "ce", "de")]
    kept = [line for line in before if "a.safetensors" not in line["a"]]
    assert [line for line in lines_of(out) if "a.safetensors" not in line["a"]] == kept


def test_other_files_and_other_measures_are_refused(bwlab: Run, files: list[Path], out: Path) -> None:
    out.write_text("My notes.\n")
    outcome = bwlab("analyze", "conflict", *files, "--out", out)
    assert (outcome.code, out.read_text()) == (2, "My notes.\n")
    assert "it holds no pairs of adapters" in outcome.err
    out.unlink()
    bwlab("analyze", "conflict", *files[:2], "--out", out)
    assert "other measures" in bwlab("analyze", "conflict", *files, "--out", out, "--signs").err
    assert len(lines_of(out)) == 1
    with out.open("ab") as held:
        assert try_lock(held)
        assert "another command is writing to it" in bwlab("analyze", "conflict", *files, "--out", out).err
    assert "is given twice" in bwlab("analyze", "conflict", files[0], files[0], "--out", out).err
    assert "Leave out --base" in bwlab("analyze", "conflict", *files, "--out", out, "--base", "emoji").err
