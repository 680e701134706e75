"""Runs that end in ways that nobody planned: killed, without their folder, terminated, with a wrong clock."""

from __future__ import annotations

import itertools
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab.training.outputs import Outputs
from bwlab.training.run import StopRequest
from bwlab.training.run_folder import ExistingRun
from tests.forked import run_command
from tests.training.runs import files_in, run, same_tensors, short_config
from tests.training.test_resume import At, KillAt, Killed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, and their errors kept in memory")
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    code, said = run_command("tests.crash", "--kills", "8", "--seed", "5", said=tmp_path / "said.txt")
    assert code == 0, said
    assert re.search(r"^ all +8 +\d+ +0 *$", said, re.MULTILINE), said


def test_a_run_killed_before_its_settings_were_written_is_begun_again(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    unfinished = f".config.toml.{'0a' * 16}.tmp"
    for name, existing in (("again", ExistingRun.REFUSE), ("resumed", ExistingRun.RESUME)):
        out = tmp_path / name
        (out / "previews").mkdir(parents=True)
        (out / ".lock").write_text("1\n")
        (out / unfinished).write_bytes(b"half")
        assert run(short_config(tiny_pipeline, two_images, out, "training.steps=1"), existing=existing).is_file()
        assert not {unfinished, ".lock"} & set(files_in(out))


class Remove(At):
    """A plugin that deletes or moves the run's folder after one step."""

    def __init__(self, step: int, out: Path, moved: Path | None) -> None:
        super().__init__(step)
        self._out, self._moved = out, moved

    def act(self) -> None:
        if self._moved is None:
            shutil.rmtree(self._out)
        else:
            self._out.rename(self._moved)


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("moved", [False, True])
def test_a_folder_that_is_gone_is_said_to_be_gone(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, moved: bool, step: int
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    config = short_config(tiny_pipeline, two_images, out, "training.steps=6", "checkpoint.every=2")
    with pytest.raises(BwlabError, match=r"out: the folder .* was deleted or moved while the run wrote into it\. Move"):
        run(config, Remove(step, out, elsewhere if moved else None))
    assert not out.exists()
    if moved:
        elsewhere.rename(out)
        assert run(config, existing=ExistingRun.RESUME).is_file()


def test_a_checkpoint_deleted_in_part_is_deleted_when_the_run_is_resumed(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = short_config(
        tiny_pipeline, two_images, tmp_path / "out", "training.steps=3", "checkpoint.every=1", "checkpoint.keep=1"
    )
    unlink, deleted = Path.unlink, list[str]()

    def killed(self: Path, missing_ok: bool = False) -> None:
        if self.name.startswith("step-000002"):
            deleted.append(self.name)
            if len(deleted) == 2:
                raise Killed
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(Killed):
        run(config)
    monkeypatch.undo()
    assert "checkpoints/step-000002.state.safetensors" in files_in(tmp_path / "out"), "the state goes last"
    run(config, existing=ExistingRun.RESUME)
    assert [name for name in files_in(tmp_path / "out") if "step" in name] == [
        "checkpoints/step-000003.safetensors",
        "checkpoints/step-000003.state.safetensors",
    ]


def test_previews_that_a_kill_prevented_are_made_when_the_run_is_resumed(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    previews = "preview.enabled=true", "preview.every=2", "preview.steps=1"
    sets = "training.steps=3", "checkpoint.every=2", *previews
    run(short_config(tiny_pipeline, two_images, tmp_path / "straight" / "out", *sets))
    config = short_config(tiny_pipeline, two_images, tmp_path / "killed" / "out", *sets)

    def killed(self: Outputs) -> None:
        raise Killed

    monkeypatch.setattr(Outputs, "preview", killed)
    with pytest.raises(Killed):
        run(config)
    monkeypatch.undo()
    run(config, existing=ExistingRun.RESUME)
    shown = [name for name in files_in(tmp_path / "straight" / "out") if name.endswith(".png")]
    assert any("step-000002" in name for name in shown)
    for name in shown:
        assert (tmp_path / "killed" / "out" / name).read_bytes() == (tmp_path / "straight" / "out" / name).read_bytes()


@pytest.mark.usefixtures("unhandled")
def test_a_launchers_sigterm_ends_a_process_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(launched=True):
        assert signal.getsignal(signal.SIGTERM) is before
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) is not before


def test_sigterm_is_left_to_whoever_handles_it() -> None:
    def handle(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, handle)
    try:
        with StopRequest():
            assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_clock_of_the_day_decides_nothing(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = "training.steps=3", "checkpoint.every=1"
    straight = run(short_config(tiny_pipeline, two_images, tmp_path / "straight", *sets))
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", *sets)
    ticks = itertools.count(2e9, -3600.0)
    monkeypatch.setattr(time, "time", lambda: next(ticks))
    with pytest.raises(Killed):
        run(config, KillAt(2))
    assert same_tensors(straight, run(config, existing=ExistingRun.RESUME))
