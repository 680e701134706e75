"""Results in notebooks: frames, HTML, rich, and figures of every analysis."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from bwlab.errors import BwlabError
from bwlab.tables import Cell, Column, Table, columns_of
from bwlab_analysis import analyze
from bwlab_analysis.analyze.notebook import frame_of, notebook_html
from bwlab_analysis.analyze.results import Analysis
from bwlab_analysis.report.presentation import BlockMap, Presentation, Section

PATHS = ("input_blocks_1_1_transformer_blocks_0_attn2_to_k", "output_blocks_3_1_transformer_blocks_0_attn2_to_k")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return three small adapters of two blocks."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("adapters")
    files = []
    for name in ("fox", "ink", "owl"):
        tensors = {}
        for path in PATHS:
            tensors[f"lora_unet_{path}.lora_down.weight"] = torch.randn(2, 768)
            tensors[f"lora_unet_{path}.lora_up.weight"] = torch.randn(320 if "input" in path else 1280, 2)
        files.append(folder / f"{name}.safetensors")
        save_file(tensors, files[-1])
    return files


def results(files: list[Path], folder: Path) -> dict[str, Callable[[], Analysis]]:
    return {
        "norms": lambda: analyze.norms(files[0]),
        "conflict": lambda: analyze.conflict(*files[:2]),
        "conflict of three": lambda: analyze.conflict(*files),
        "pairs": lambda: analyze.conflict_pairs(*files, out=folder / "pairs.jsonl"),
    }


@pytest.mark.parametrize("kind", ["norms", "conflict", "conflict of three", "pairs"])
def test_each_result_is_shown_in_all_ways(kind: str, files: list[Path], tmp_path: Path) -> None:
    result = results(files, tmp_path)[kind]()
    frame = result.to_frame()
    assert len(frame) > 1
    assert result.tables()
    assert all(len(result.to_frame(name).columns) > 1 for name in result.tables())
    html = result._repr_html_()
    assert html.startswith('<div class="bwlab">')
    assert html.count("<table>") >= 1
    assert "<script" not in html
    assert "<style" not in html
    printed = io.StringIO()
    Console(file=printed, width=90).print(result)
    lines = printed.getvalue().splitlines()
    assert any("fox" in line or "in1" in line for line in lines)
    assert max(map(len, lines)) <= 90
    result.figure().savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_numbers_of_a_frame_are_those_of_the_report(files: list[Path]) -> None:
    result = analyze.norms(files[0])
    frame = result.to_frame(result.tables()[0])
    by_block = {block.name: block.norm for block in result.report.blocks}
    shown = dict(zip(frame["block"], frame["delta norm"], strict=True))
    assert {name: shown[name] for name in by_block} == by_block
    assert next(iter(result.figure().axes[0].get_xticklabels())).get_text() == result.report.blocks[0].name


def made(*tables: Table) -> Presentation:
    sections = tuple(Section("Numbers", (table, BlockMap({"x": {"in0": 1.0}}))) for table in tables)
    return Presentation("Made up", Section("In short", ("<b>All</b> is well.",)), sections)


def test_what_stands_beside_numbers_is_a_column_and_names_are_told_apart() -> None:
    rows = (
        (Cell("in0"), Cell("0.33", 1 / 3, "(0.1 to 0.5)"), Cell("-")),
        (Cell("in1"), Cell("0.50", 0.5), Cell("off")),
    )
    columns = (Column("block"), Column("norm", "(random)"), Column("norm"))
    table = Table(columns, rows, totals=((Cell("all"), Cell("1", 1.0), Cell("-")),))
    frame = frame_of(made(table))
    assert list(frame.columns) == ["block", "norm", "norm (random)", "norm 2"]
    assert list(frame["norm"]) == [1 / 3, 0.5, 1.0]
    assert frame["norm (random)"].tolist()[0] == "0.1 to 0.5"
    assert frame["norm 2"].isna().tolist() == [True, False, True]


def test_tables_have_names_and_unknown_ones_are_told() -> None:
    table = Table(columns_of("block", "norm"), ((Cell("in0"), Cell("1", 1.0)),))
    shown = made(table, table)
    assert frame_of(shown, "Numbers 2").equals(frame_of(shown))
    with pytest.raises(BwlabError, match=r"the table Number: .*Did you mean Numbers\? Known: Numbers, Numbers 2"):
        frame_of(shown, "Number")
    with pytest.raises(BwlabError, match=r"no such table. Use document\(\)"):
        frame_of(made())


def test_html_is_escaped_and_has_no_drawing() -> None:
    html = notebook_html(made())
    assert "&lt;b&gt;All&lt;/b&gt; is well." in html
    assert "<svg" not in html


def test_without_pandas_the_error_says_how_to_get_it(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BwlabError, match=r"pandas is not installed. pip install 'bwlab\[notebook\]'"):
        analyze.norms(files[0]).to_frame()
