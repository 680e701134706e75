"""One run at a time in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import bwlab
from bwlab.errors import BwlabError
from bwlab.files import FolderLock
from bwlab.plugins.events import StepRecord
from bwlab.training.run_folder import ExistingRun
from tests.training.runs import files_in, run, short_config

HOLD = """
import sys, pathlib
from bwlab.files import FolderLock
with FolderLock(pathlib.Path(sys.argv[1]), "run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Return another process that holds the lock of `out`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_holder_locks_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(BwlabError, match=rf"another run \(process {holder.pid}\) is writing there"),
        FolderLock(tmp_path / "out", "run"),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert files_in(tmp_path / "out") == [".lock"], "the file stays behind"
    with FolderLock(tmp_path / "out", "run"):
        assert (tmp_path / "out" / ".lock").read_text() == f"{os.getpid()}\n"
    assert files_in(tmp_path / "out") == []


def test_a_run_refuses_a_folder_in_use(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=1")
    with pytest.raises(BwlabError, match="is writing there"):
        run(config)
    holder.communicate("")
    assert files_in(tmp_path / "out") == []
    assert run(config).is_file()


class SecondRun:
    """A plugin that starts the same run again in the middle of it."""

    @bwlab.hookimpl
    def bwlab_step_finished(self, record: StepRecord) -> None:
        with pytest.raises(BwlabError, match="is writing there"), FolderLock(Path(self.out), "run"):
            pass

    def __init__(self, out: Path) -> None:
        self.out = out


def test_a_run_holds_the_lock_while_it_trains(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=1")
    run(config, SecondRun(tmp_path / "out"))
    assert ".lock" not in files_in(tmp_path / "out")
    run(config, existing=ExistingRun.RESUME)
