"""`bwlab --help` is light: it imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "skimage", "open_clip", "numpy", "PIL")

REPORT = """
import sys
from bwlab.cli.app import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
print("MODULES", *sorted(name.split(".")[0] for name in sys.modules))
"""


def modules_after(*arguments: str) -> set[str]:
    """Top-level names in `sys.modules` after `bwlab` ran with these arguments."""
    code = REPORT.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["train", "--help"]], ids=" ".join)
def test_no_heavy_import(arguments: list[str]) -> None:
    modules = modules_after(*arguments)
    assert "bwlab" in modules
    assert modules & set(HEAVY) == set()
