"""The notebook docs/tour.ipynb runs, and its output is that of its cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docs.tour import read, run


def data(cell: Any) -> set[str]:
    """Return the kinds of output of a cell."""
    return {kind for output in cell.outputs for kind in output.get("data", {})}


def cells(notebook: Any) -> list[Any]:
    """Return the cells with code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    fewer = {"STEPS": 1, "SAMPLES": 1, "LATENTS": 1, "RANDOM": 1, "IMAGE_STEPS": 1, "TIMESTEPS": [601]}
    kept, made = read(), run(read(), tmp_path, BLOCKS='"mid=2, out3=2"', **fewer)
    assert [data(cell) for cell in cells(made)] == [data(cell) for cell in cells(kept)]
    assert sum("image/png" in data(cell) for cell in cells(made)) == 5
    assert sum("text/html" in data(cell) for cell in cells(made)) == 3
    assert not [output for cell in cells(made) for output in cell.outputs if output.output_type == "error"]


def test_its_output_names_no_path() -> None:
    text = str(read())
    assert "/tmp" not in text
    assert "site-packages" not in text
    assert not [output for cell in cells(read()) for output in cell.outputs if output.output_type == "stream"]


def test_constants_that_no_cell_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 cells set EPOCHS"):
        run(read(), tmp_path, EPOCHS=1)
