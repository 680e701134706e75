"""Fixtures of the analysis' tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bwlab.cli.app import main
from tests.analysis.small_bases import SCHEMES, save_small_base
from tests.analysis.study.finished import clip as clip  # fixtures for the tests of all packages below
from tests.analysis.study.finished import finished as finished
from tests.analysis.study.finished import scheme as scheme


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def bwlab(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Return a function that runs the command line at 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session", params=SCHEMES)
def small_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a base with the very modules of SD 1.4, of SD 2.1 and of SDXL."""
    return save_small_base(request.param, tmp_path_factory.mktemp("bases") / request.param)
