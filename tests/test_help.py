"""``bwlab --help`` is light: no heavy import, little CPU."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "skimage", "open_clip", "numpy", "PIL")
LIMIT = 0.4  # seconds of CPU, user and system

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
    """Top-level names in ``sys.modules`` after ``bwlab`` ran with these arguments."""
    code = REPORT.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


def cpu_seconds(*arguments: str) -> float:
    """CPU seconds of ``python -m bwlab`` with these arguments."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "bwlab", *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["train", "--help"]], ids=" ".join)
def test_no_heavy_import(arguments: list[str]) -> None:
    modules = modules_after(*arguments)
    assert "bwlab" in modules
    assert modules & set(HEAVY) == set()


def test_help_is_quick() -> None:
    """The best of three: a busy machine slows a run down, never up."""
    assert min(cpu_seconds("--help") for _ in range(3)) < LIMIT
