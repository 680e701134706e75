"""TensorBoard and W&B as they write their files."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab.training.config import TrackingConfig
from bwlab.training.run_folder import ExistingRun
from bwlab.training.tracking import check_trackers
from tests.training.runs import files_in, run, short_config
from tests.training.test_resume import KillAt, Killed


def test_tensorboard_gets_every_step_once(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sets = "tracking.trackers=tensorboard", "tracking.project=foxes", "checkpoint.every=2", "training.steps=4"
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", *sets)
    with pytest.raises(Killed):
        run(config, KillAt(3))
    run(config, existing=ExistingRun.RESUME)
    written = EventAccumulator(str(tmp_path / "out" / "tensorboard" / "foxes" / "out")).Reload()
    assert set(written.Tags()["scalars"]) == {"loss", "lr", "grad_norm"}
    assert [event.step for event in written.Scalars("loss")] == [1, 2, 3, 4]
    assert all(event.value == pytest.approx(5e-4) for event in written.Scalars("lr"))
    run(config, existing=ExistingRun.OVERWRITE)
    events = [name for name in files_in(tmp_path / "out") if "tfevents" in name]
    assert len(events) == 1


def test_wandb_runs_offline(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    sets = "tracking.trackers=wandb", "tracking.run=fox 1", "training.steps=2"
    run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets))
    (file,) = (tmp_path / "out" / "wandb").glob("offline-run-*/*.wandb")
    end = time.monotonic() + 60  # W&B's own process writes it, on a busy machine after the run
    while not all(word in file.read_bytes() for word in (b"fox 1", b"training.steps")):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_unknown_tracker_names_the_nearest() -> None:
    with pytest.raises(BwlabError, match=r"no such tracker\. Did you mean tensorboard\?"):
        check_trackers(TrackingConfig(trackers=("tensorbord",)))


def test_a_missing_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BwlabError, match=r"wandb is not installed\. pip install 'bwlab\[wandb\]'"):
        check_trackers(TrackingConfig(trackers=("wandb",)))
