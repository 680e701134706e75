"""A study that is killed and run again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.forked import run_command


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, and their errors kept in memory")
def test_a_study_killed_at_any_moment_has_the_report_of_one_that_was_not(tmp_path: Path) -> None:
    arguments = ("--of", "study", "--kills", "2", "--seed", "3")
    code, said = run_command("tests.crash", *arguments, said=tmp_path / "said.txt")
    assert code == 0, said
    assert re.search(r"^ all +2 +\d+ +0 *$", said, re.MULTILINE), said
