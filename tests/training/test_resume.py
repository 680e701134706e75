"""Runs that stop, break and go on."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bwlab
from bwlab.errors import BwlabError
from bwlab.plugins.events import StepRecord
from bwlab.training.run_folder import ExistingRun
from bwlab.training.state import load_state, save_state
from tests.training.runs import files_in, run, same_tensors, short_config


class At:
    """A plugin that does something after one step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number

    @bwlab.hookimpl
    def bwlab_step_finished(self, record: StepRecord) -> None:
        if record.step == self.step:
            self.act()

    def act(self) -> None:
        """Send the signal: that of Ctrl-C, or that of a batch system."""
        signal.raise_signal(self.number)


class Killed(BaseException):
    """In place of a signal: no guard of a hook catches it."""


class KillAt(At):
    """Ends the process's run at once, as a kill would: nothing is saved."""

    def act(self) -> None:
        raise Killed


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_equals_a_straight_one(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, precision: str
) -> None:
    sets = f"training.precision={precision}", "adapter.blocks=upper=4, mid=3, lower=1"
    straight = short_config(tiny_pipeline, two_images, tmp_path / "straight", *sets, "training.steps=4")
    half = short_config(tiny_pipeline, two_images, tmp_path / "resumed", *sets, "training.steps=2")
    rest = short_config(tiny_pipeline, two_images, tmp_path / "resumed", *sets, "training.steps=4")
    run(straight)
    run(half)
    assert not same_tensors(tmp_path / "straight" / "adapter.safetensors", tmp_path / "resumed" / "adapter.safetensors")
    run(rest, existing=ExistingRun.RESUME)
    state = Path("checkpoints") / "step-000004.state.safetensors"
    for name in ("adapter.safetensors", state):
        assert same_tensors(tmp_path / "straight" / name, tmp_path / "resumed" / name)


def test_after_a_kill_the_log_goes_on_from_the_checkpoint(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    sets = "training.steps=7", "checkpoint.every=2"
    straight = run(short_config(tiny_pipeline, two_images, tmp_path / "straight", *sets))
    config = short_config(tiny_pipeline, two_images, tmp_path / "killed", *sets)
    with pytest.raises(Killed):
        run(config, KillAt(5))
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"event": "st')
    unfinished = tmp_path / "killed" / "checkpoints" / f".step-000006.state.safetensors.{'0a' * 16}.tmp"
    unfinished.write_bytes(b"half")
    resumed = run(config, existing=ExistingRun.RESUME)
    assert same_tensors(straight, resumed)
    assert not unfinished.exists()
    lines = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3, 4, 5, 6, 7]


def test_resume_before_the_first_checkpoint_starts_over(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=3")
    with pytest.raises(Killed):
        run(config, KillAt(2))
    assert run(config, existing=ExistingRun.RESUME).is_file()
    assert run(config, existing=ExistingRun.RESUME).is_file(), "a complete run may be resumed too"


@pytest.mark.usefixtures("unhandled")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_saves_and_interrupts(
    number: signal.Signals, tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    straight = run(short_config(tiny_pipeline, two_images, tmp_path / "straight", "training.steps=5"))
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=5")
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(config, At(2, number))
    assert signal.getsignal(number) is before
    assert "checkpoints/step-000002.state.safetensors" in files_in(tmp_path / "out")
    assert same_tensors(straight, run(config, existing=ExistingRun.RESUME))


def test_old_checkpoints_are_pruned(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.steps=5", "checkpoint.every=1", "checkpoint.keep=3"
    run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets))
    states = [name for name in files_in(tmp_path / "out") if name.endswith(".state.safetensors")]
    assert states == [f"checkpoints/step-00000{step}.state.safetensors" for step in (3, 4, 5)]


def test_a_copy_of_a_checkpoint_is_never_pruned(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "adapter.blocks=mid=2", "checkpoint.keep=1"
    checkpoints = tmp_path / "out" / "checkpoints"
    run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets, "training.steps=1"))
    copied = (checkpoints / "step-000001.safetensors").rename(checkpoints / "step-000001-best.safetensors").read_bytes()
    again = short_config(tiny_pipeline, two_images, tmp_path / "out", *sets, "training.steps=2")
    run(again, existing=ExistingRun.RESUME)
    steps = ["step-000002.safetensors", "step-000002.state.safetensors"]
    assert files_in(checkpoints) == ["step-000001-best.safetensors", *steps]
    assert (checkpoints / "step-000001-best.safetensors").read_bytes() == copied


def test_a_run_is_not_resumed_with_other_settings(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(short_config(tiny_pipeline, two_images, out, "training.steps=2"))
    kept = {name: (out / name).read_bytes() for name in files_in(out)}
    for change, named in (
        ("training.lr=1e-5", "training.lr"),
        ("training.seed=9", "training.seed"),
        ("adapter.blocks=all=3", "adapter.blocks"),
        ("adapter.type=lora", "adapter.type"),
        ("data.repeats=2", "the data"),
        ("data.resolution=16", "resolution"),
        ("training.steps=1", "--steps 1"),
    ):
        with pytest.raises(BwlabError, match=named):
            run(short_config(tiny_pipeline, two_images, out, "training.steps=4", change), existing=ExistingRun.RESUME)
        assert {name: (out / name).read_bytes() for name in files_in(out)} == kept, change


def test_a_damaged_checkpoint_is_named(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=2")
    run(config)
    state = tmp_path / "out" / "checkpoints" / "step-000002.state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(
        BwlabError, match=r"step-000002\.state\.safetensors: not a whole checkpoint .* to train from the first step"
    ):
        run(config, existing=ExistingRun.RESUME)


@pytest.mark.parametrize("place", ["tensor", "header"])
def test_a_checkpoint_with_one_flipped_bit_is_named(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, place: str
) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=2", "checkpoint.every=1")
    run(config)
    state = tmp_path / "out" / "checkpoints" / "step-000002.state.safetensors"
    content = bytearray(state.read_bytes())
    at = len(content) - 5 if place == "tensor" else content.index(b'step\\": 2') + 8
    content[at] ^= 1
    state.write_bytes(content)
    with pytest.raises(
        BwlabError, match=r"step-000002\.state\.safetensors: not a whole checkpoint \(its checksum is"
    ) as caught:
        run(config, existing=ExistingRun.RESUME)
    assert caught.value.fix == "Delete it to resume from the one before, of step 1"
    state.unlink()  # as the message says
    run(config, existing=ExistingRun.RESUME)
    assert state.is_file()


def test_images_renamed_into_another_order_are_named(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    run(short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=2"))
    longer = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=3")
    *_, last = sorted(path.stem for path in two_images.glob("*.png"))
    for path in two_images.glob(f"{last}.*"):
        path.rename(path.with_name(f"0{path.suffix}"))
    with pytest.raises(BwlabError, match=r"the order of the images, which is that of their names, is .*, but was"):
        run(longer, existing=ExistingRun.RESUME)
    for path in two_images.glob("0.*"):
        path.rename(path.with_name(f"zzz{path.suffix}"))
    run(longer, existing=ExistingRun.RESUME)


def test_a_folder_in_use_is_refused_and_untouched(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    config = short_config(tiny_pipeline, two_images, out, "training.steps=1")
    with pytest.raises(BwlabError, match="the folder is not empty"):
        run(config)
    with pytest.raises(BwlabError, match=r"no config\.toml of a run to resume"):
        run(config, existing=ExistingRun.RESUME)
    assert files_in(out) == ["mine.txt"]


def test_overwriting_replaces_a_run_and_nothing_else(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(short_config(tiny_pipeline, two_images, out, "training.steps=3"))
    mine = ["mine.txt", "previews/mine.png", "checkpoints/step-000003-best.safetensors", "deep/er/mine.txt"]
    for name in mine:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("keep me")
    run(
        short_config(tiny_pipeline, two_images, out, "training.steps=2", "adapter.blocks=mid=2"),
        existing=ExistingRun.OVERWRITE,
    )
    steps = ["checkpoints/step-000002.safetensors", "checkpoints/step-000002.state.safetensors"]
    assert files_in(out) == sorted([*mine, *steps, "adapter.safetensors", "config.toml", "log.jsonl"])
    assert all((out / name).read_text() == "keep me" for name in mine)


class FillDiskAt(At):
    """A plugin after whose step every write to disk stops half way, as on a full disk."""

    def __init__(self, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(step)
        self._monkeypatch = monkeypatch

    def act(self) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self._monkeypatch.setattr(os, "fsync", full)


def test_a_full_disk_leaves_the_last_checkpoint(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = "training.steps=6", "checkpoint.every=2"
    straight = run(short_config(tiny_pipeline, two_images, tmp_path / "straight", *sets))
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", *sets)
    with pytest.raises(BwlabError, match="No space left on device") as caught:
        run(config, FillDiskAt(3, monkeypatch))
    monkeypatch.undo()
    assert "last good checkpoint" in caught.value.found
    assert "step-000002.state.safetensors" in caught.value.found
    assert [name for name in files_in(tmp_path / "out") if "step" in name] == [
        "checkpoints/step-000002.safetensors",
        "checkpoints/step-000002.state.safetensors",
    ]
    assert same_tensors(straight, run(config, existing=ExistingRun.RESUME))


class BreakLogAt(At):
    """A plugin after whose step the log can no longer be written."""

    def __init__(self, step: int, log: Path) -> None:
        super().__init__(step)
        self._log = log

    def act(self) -> None:
        self._log.unlink()
        self._log.mkdir()


def test_a_log_that_cannot_be_written_stops_the_run(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=6", "checkpoint.every=2")
    log = tmp_path / "out" / "log.jsonl"
    with pytest.raises(BwlabError, match=r"writing .*log\.jsonl: Is a directory; last good checkpoint: .*step-000002"):
        run(config, BreakLogAt(3, log))


class Poison:
    """A plugin whose loss is NaN from one step on."""

    def __init__(self, step: int) -> None:
        self.step, self.seen = step, 0

    @bwlab.hookimpl
    def bwlab_extra_losses(self, prediction: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += 1
        return {"poison": prediction.mean() * (float("nan") if self.seen >= self.step else 0.0)}


def test_a_loss_that_is_nan_stops_the_run_and_names_the_last_checkpoint(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=6", "checkpoint.every=2")
    with pytest.raises(
        BwlabError,
        match=r"training step 5, bwlab_extra_losses of plugin .*: the loss 'poison' is nan; .*step-000004\.state",
    ):
        run(config, Poison(5))


def test_weights_that_are_not_finite_are_not_saved(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=4", "training.lr=1e38")
    with pytest.raises(BwlabError, match="no checkpoint yet"):
        run(config)
    assert files_in(tmp_path / "out") == ["config.toml", "log.jsonl"]


def test_a_setting_of_another_kind_in_a_checkpoint_is_named(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    """Here too the checksum is right."""
    sets = "adapter.blocks=mid=2", "checkpoint.every=1"
    out = tmp_path / "out"
    run(short_config(tiny_pipeline, two_images, out, *sets, "training.steps=1"))
    path = out / "checkpoints" / "step-000001.state.safetensors"
    state = load_state(path)
    for name, value in (("weight_decay", "x"), ("betas", 0.9), ("maximize", 1)):
        changed: dict[str, Any] = {**state.groups[0], name: value}
        save_state(replace(state, groups=[changed, *state.groups[1:]]), path)
        with pytest.raises(BwlabError, match=f"{name} is of another kind than the optimiser's"):
            run(short_config(tiny_pipeline, two_images, out, *sets, "training.steps=2"), existing=ExistingRun.RESUME)


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("trainable/", lambda tensor: tensor[:1], "holds other layers or ranks"),
        ("average/3", lambda tensor: tensor[..., :1], "holds averages of other layers or ranks"),
        ("average/3", None, "holds averages of other layers or ranks"),
        ("optimizer/3/exp_avg_sq", lambda tensor: tensor.unsqueeze(-1), "exp_avg_sq has the shape"),
        ("optimizer/3/exp_avg", lambda tensor: tensor[:0], "exp_avg has the shape"),
        ("optimizer/3/exp_avg", None, "state of the optimiser in the checkpoint does not fit"),
    ],
)
def test_a_checkpoint_of_other_shapes_is_named(
    tiny_pipeline: Path,
    two_images: Path,
    tmp_path: Path,
    key: str,
    change: Callable[[Tensor], Tensor] | None,
    said: str,
) -> None:
    """Its checksum is right: somebody's program wrote it."""
    sets = "adapter.blocks=mid=2", "training.ema=0.9", "checkpoint.every=1"
    out = tmp_path / "out"
    run(short_config(tiny_pipeline, two_images, out, *sets, "training.steps=1"))
    path = out / "checkpoints" / "step-000001.state.safetensors"
    state = load_state(path)
    name = next(name for name in state.tensors if name == key or (key.endswith("/") and name.startswith(key)))
    tensors = {**state.tensors}
    tensor = tensors.pop(name)
    if change is not None:
        tensors[name] = change(tensor).contiguous()
    save_state(replace(state, tensors=tensors), path)
    with pytest.raises(BwlabError, match=said):
        run(short_config(tiny_pipeline, two_images, out, *sets, "training.steps=2"), existing=ExistingRun.RESUME)
