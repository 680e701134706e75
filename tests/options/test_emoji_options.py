"""Every option of `bwlab base`: what it hands to the builds, which take hours, and to the measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bwlab.tables import Column
from bwlab.tables import Table as ShownTable
from tests.options.effects import both_work, value_at
from tests.options.rows import Done, Effect, Row, Runner, Table


def world(folder: Path, tiny: Path) -> dict[str, object]:
    """Return nothing: builds are recorded, not done."""
    return {}


CALLS = {
    "build.build": ("config", "console", "stages"),
    "base_quality.measure": ("base", "work", "cfg", "count", "seed", "sheet"),
    "benchmark_art.write_benchmark": ("work", "out"),
    "benchmark_quality.measure_benchmark": ("work", "styles", "on_style"),
    "dit.build_transformer": ("config", "console"),
    "companions.build_scorer": ("config", "console"),
    "companions.build_controlnet": ("config", "base", "console"),
    "scoring.quality.measure_scorer": ("folder", "work"),
}
"""The functions that do the work, tested in tests/emoji, and the names of their arguments."""


@pytest.fixture(scope="module", autouse=True)
def recorded() -> Iterator[None]:
    """Have each function leave its arguments in a file, in place of its work."""
    with pytest.MonkeyPatch.context() as patch:
        for name, arguments in CALLS.items():
            patch.setattr(f"bwlab_emoji.{name}", recorder(arguments))
        for name in ("base_quality.retrieval_table", "scoring.quality.scorer_table", "scoring.quality.text_table"):
            patch.setattr(f"bwlab_emoji.{name}", str)
        patch.setattr(
            "bwlab_emoji.benchmark_quality.gate_table",
            lambda gates: ShownTable((Column("gate"),), (), title=str(gates)),
        )
        patch.setattr("bwlab_emoji.benchmark_quality.write_gates", lambda gates, file: file.write_text(str(gates)))
        yield


def recorder(names: tuple[str, ...]) -> Callable[..., object]:
    def record(*given: Any, **named: Any) -> object:
        values = {**dict(zip(names, given, strict=False)), **named}
        values = {name: asdict(value) if name == "config" else value for name, value in values.items()}
        values.pop("console", None)
        values.pop("on_style", None)
        Path("call.json").write_text(json.dumps(values, default=str))
        return "measured", "measured"

    return record


def handed(path: str, expected: object) -> Effect:
    """Return the effect that the work is given an expected value with the option only."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        first, second = (json.loads((done.folder / "call.json").read_text()) for done in (without, with_option))
        assert value_at(second, path) == expected
        assert value_at(first, path) != expected

    return check


BUILD = Table(
    "base build",
    "",
    [
        Row("--out", "--out here", handed("config.out", "here")),
        Row("--work", "--work here", handed("config.work", "here")),
        Row("--stage", "--stage vae", handed("stages", ["vae"])),
        Row("--seed", "--seed 3", handed("config.seed", 3)),
        Row("--vae-steps", "--vae-steps 3", handed("config.vae_steps", 3)),
        Row("--unet-steps", "--unet-steps 3", handed("config.unet_steps", 3)),
        Row("--compile", "--compile", handed("config.compile_unet", True)),
        Row("--kind", "--kind dit", handed("config.coloured_from", 1_150)),
        Row("--dit-steps", "--dit-steps 3", handed("config.steps", 3), common="--kind dit"),
    ],
)
MEASURE = Table(
    "base measure",
    "",
    [
        Row("<base>", "here", handed("base", "here")),
        Row("--work", "--work here", handed("work", "here")),
        Row("--cfg", "--cfg 2", handed("cfg", 2)),
        Row("--count", "--count 2", handed("count", 2)),
        Row("--seed", "--seed 2", handed("seed", 2)),
        Row("--sheet", "--sheet here.png", handed("sheet", "here.png")),
    ],
)
BENCHMARK = Table(
    "base benchmark",
    "--out there",
    [
        Row("--out", "--out here", handed("out", "here"), common="", instead="--out there"),
        Row("--work", "--work here", handed("work", "here")),
    ],
)
COMPANION = [
    Row("--out", "--out here", handed("config.out", "here")),
    Row("--work", "--work here", handed("config.work", "here")),
    Row("--steps", "--steps 3", handed("config.steps", 3)),
    Row("--seed", "--seed 3", handed("config.seed", 3)),
]
SCORER = Table("base scorer", "", COMPANION)
CONTROLNET = Table("base controlnet", "", [*COMPANION, Row("--base", "--base here", handed("base", "here"))])
MEASURE_SCORER = Table(
    "base measure-scorer",
    "there",
    [
        Row("<folder>", "here", handed("folder", "here"), common="", instead="there"),
        Row("--work", "--work here", handed("work", "here")),
    ],
)


def writes_measured(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert without.files("gate.json") == []
    assert "measured" in with_option.file("gate.json").read_text()


MEASURE_BENCHMARK = Table(
    "base measure-benchmark",
    "",
    [
        Row("--work", "--work here", handed("work", "here")),
        Row("--style", "--style ink", handed("styles", ["ink"])),
        Row("--out", "--out gate.json", writes_measured),
    ],
)
TABLES = [BUILD, MEASURE, BENCHMARK, SCORER, CONTROLNET, MEASURE_SCORER, MEASURE_BENCHMARK]


@pytest.mark.parametrize(("table", "row"), [value for table in TABLES for value in table.parameters()])
def test_an_option_acts(runner: Runner, table: Table, row: Row) -> None:
    runner.check(table, row)
