"""The results of the golden set: what commands print of its files, and the deltas that they write."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bwlab.cli.app import main
from tests.truth import dense

RESULTS = Path(__file__).with_name("results.json")
RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Numbers that differ by less are equal, as machines round products differently."""
PAIRS = (
    ("kohya-lora", "kohya-lora-other"),
    ("kohya-tucker", "kohya-loha"),
    ("kohya-full", "kohya-lora"),
    ("diffusers", "kohya-lora"),
    ("peft", "processors"),
    ("peft", "diffusers-peft"),
)
WRITTEN = {
    "convert to diffusers": ("convert", "{}/kohya-lora.safetensors", "{out}", "--to", "diffusers"),
    "convert to ldm and float16": ("convert", "{}/peft.safetensors", "{out}", "--to", "ldm", "--dtype", "fp16"),
    "convert to rank 2": ("convert", "{}/kohya-loha.safetensors", "{out}", "--rank", "2"),
    "merge by sum": (
        *("merge", "{}/kohya-lora.safetensors", "{}/diffusers.safetensors", "--out", "{out}"),
        *("--scale", "0.7"),
    ),
    "merge by ties": (
        *("merge", "{}/kohya-lora.safetensors", "{}/kohya-full.safetensors", "--out", "{out}"),
        *("--method", "ties", "--rank", "4"),
    ),
    "merge by dare": (
        *("merge", "{}/kohya-tucker.safetensors", "{}/kohya-loha.safetensors", "--out", "{out}"),
        *("--method", "dare", "--density", "0.6", "--rank", "4"),
    ),
}
"""Commands that write a file, by name; `{}` is the folder of the files."""


def measured(folder: Path) -> dict[str, Any]:
    """Return the results of all commands, by command."""
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    results = {f"inspect {name}": _printed(folder, "inspect", name) for name in names}
    results |= {f"norms {name}": _printed(folder, "analyze", "norms", name) for name in names}
    results |= {f"conflict {a} {b}": _printed(folder, "analyze", "conflict", a, b, "--signs") for a, b in PAIRS}
    return results | {name: _written(folder, command) for name, command in WRITTEN.items()}


def run(arguments: Sequence[str]) -> str:
    """Return what a command prints; RuntimeError if it fails."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f"{' '.join(arguments)}: {err.getvalue()}") from ended
    return out.getvalue()


def _printed(folder: Path, *arguments: str) -> Any:
    """Return the JSON that a command prints; names of files of the set are written without folder and ending."""
    files = {path.stem: str(path) for path in folder.glob("*.safetensors")}
    text = run([*(files.get(argument, argument) for argument in arguments), "--json"])
    return json.loads(text.replace(f"{folder}/", ""))


def _written(folder: Path, command: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the numbers of every delta of the file that a command writes."""
    with TemporaryDirectory() as made:
        out = Path(made) / "out.safetensors"
        run([part.replace("{out}", str(out)).replace("{}", str(folder)) for part in command])
        if "ldm" in command:  # whose names the dense reader does not know
            out = out.with_name("kohya.safetensors")
            run(["convert", str(Path(made) / "out.safetensors"), str(out)])
        return {name: _summed(matrix) for name, matrix in sorted(dense.deltas(out).items())}


def _summed(matrix: dense.Array) -> dict[str, float]:
    """Return the norm of a matrix, and its product with fixed numbers, which changes if any of its numbers does."""
    weights = np.random.default_rng(0).standard_normal(matrix.shape)
    return {"norm": float(np.linalg.norm(matrix)), "product": float((matrix * weights).sum())}


def changes(kept: Any, found: Any, place: str = "") -> Iterator[str]:
    """Yield a line for every difference between two documents that is more than rounding."""
    if isinstance(kept, dict) and isinstance(found, dict):
        for key in sorted(kept.keys() | found.keys()):
            inside = f"{place}: {key}" if place else str(key)
            if key in kept and key in found:
                yield from changes(kept[key], found[key], inside)
            else:
                yield f"{inside}: {'gone' if key in kept else 'new'}"
    elif isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        for number, pair in enumerate(zip(kept, found, strict=True)):
            yield from changes(*pair, f"{place}: {number}")
    elif not _equal(kept, found):
        yield f"{place}: {kept} -> {found}"


def _equal(kept: Any, found: Any) -> bool:
    if isinstance(kept, float) and isinstance(found, int | float):
        return math.isclose(kept, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(kept == found)
