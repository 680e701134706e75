"""A study that is killed and run again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, and their errors kept in memory")
def test_a_study_killed_at_any_moment_has_the_report_of_one_that_was_not() -> None:
    command = [sys.executable, "-m", "tests.crash", "--of", "study", "--kills", "2", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ all +2 +\d+ +0 *$", done.stdout, re.MULTILINE), done.stdout
