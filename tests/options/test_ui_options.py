"""Every option of `bwlab ui`: what it hands to the server, which runs until somebody stops it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.options.rows import Row, Runner, Table
from tests.options.test_emoji_options import handed


def world(folder: Path, tiny: Path) -> dict[str, object]:
    """Return nothing: the server is not started; tests/ui tests what it does with each option."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def recorded() -> Iterator[None]:
    """Have the function that serves the page leave its options in a file."""

    def record(options: object) -> None:
        Path("call.json").write_text(json.dumps(asdict(options), default=str))  # type: ignore[call-overload]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bwlab_ui.run.run", record)
        yield


UI = Table(
    "ui",
    "",
    [
        Row("<adapters>", "a.safetensors b.safetensors", handed("adapters", ["a.safetensors", "b.safetensors"])),
        Row("--base", "--base here", handed("base", "here")),
        Row("--folder", "--folder here", handed("folder", "here")),
        Row("--data", "--data a=here", handed("data", ["a=here"])),
        Row("--clip", "--clip here", handed("clip", "here")),
        Row("--device", "--device cpu", handed("device", "cpu")),
        Row("--listen", "--listen 0.0.0.0", handed("host", "0.0.0.0")),
        Row("--port", "--port 0", handed("port", 0)),
        Row("--password-file", "--password-file here", handed("password_file", "here")),
        Row("--max-upload", "--max-upload 2", handed("most_upload", 2 * 2**20)),
        Row("--open", "--no-open", handed("open_page", False)),
    ],
)
TABLES = [UI]


@pytest.mark.parametrize(("table", "row"), [value for table in TABLES for value in table.parameters()])
def test_an_option_acts(runner: Runner, table: Table, row: Row) -> None:
    runner.check(table, row)
