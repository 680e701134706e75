"""Run the notebook docs/tour.ipynb and keep its output in it: `python -m docs.tour`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat

NOTEBOOK = Path(__file__).with_name("tour.ipynb")


def read() -> Any:
    """Return the notebook."""
    return nbformat.read(NOTEBOOK, as_version=4)


def run(notebook: Any, folder: Path, **constants: object) -> Any:
    """Run all cells of a notebook and return it with their output, without times and what the machine says.

    Args:
        notebook: the notebook.
        folder: working folder of the kernel.
        constants: other values of constants that a cell sets, such as `STEPS = 80`.

    Raises:
        ValueError: no cell sets such a constant.

    """
    for name, value in constants.items():
        changed = 0
        for cell in notebook.cells:
            cell.source, count = re.subn(rf"(?m)^{name} = [^#\n]+$", f"{name} = {value}", cell.source)
            changed += count
        if changed != 1:
            raise ValueError(f"{changed} cells set {name}")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [_kept(output) for output in cell.outputs if not _of_the_machine(output)]
    return notebook


def main() -> None:
    """Run the notebook in place."""
    notebook = run(read(), NOTEBOOK.parent)
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    nbformat.write(notebook, NOTEBOOK)


def _of_the_machine(output: Any) -> bool:
    """Return whether an output says what is installed, not what the notebook does: tqdm misses ipywidgets."""
    return bool(output.output_type == "stream" and "TqdmWarning" in output.text)


def _kept(output: Any) -> Any:
    """Return an output with one image, not two kinds of it."""
    if "image/png" in output.get("data", {}):
        output.data.pop("image/jpeg", None)
    return output


if __name__ == "__main__":
    main()
