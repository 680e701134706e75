"""Runs whose length, checkpoints and previews are given in epochs."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from safetensors import safe_open

from bwlab.config.toml import toml_text, toml_with_origins
from bwlab.dataset.epochs import Epochs
from bwlab.errors import BwlabError
from bwlab.training.config import CheckpointConfig, OptimizerConfig
from bwlab.training.prepare import prepare
from bwlab.training.run_folder import ExistingRun
from bwlab.training.settings import build_config, collect, read_config
from tests.dataset.small_data import WriteData
from tests.training.runs import files_in, plugins, run, same_tensors, short_config
from tests.training.test_train_command import call, one_line

SMALL = "adapter.blocks=mid=2"


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def steps_taken(out: Path) -> int:
    lines = (json.loads(line) for line in (out / "log.jsonl").read_text().splitlines())
    return sum(line["event"] == "step" for line in lines)


@pytest.fixture
def three_and_two(write_data: WriteData) -> Path:
    """Return a folder of three images that count once and two that count twice: seven examples per epoch."""
    once = {f"{name}.png": name for name in ("fox", "owl", "cat")}
    return write_data({**once, "2_x/bat.png": "bat", "2_x/elk.png": "elk"})


@pytest.mark.parametrize(
    ("options", "steps"),
    [((), 11), (("--batch-size", "3", "--set", "training.accumulation=2"), 4), (("--batch-size", "64"), 1)],
)
def test_epochs_give_the_steps(
    tiny_pipeline: Path, three_and_two: Path, tmp_path: Path, options: tuple[str, ...], steps: int
) -> None:
    out = tmp_path / "out"
    small = ("--blocks", "mid=2", "--batch-size", "2", "--set", "preview.enabled=false", *options)
    data = ("--base", str(tiny_pipeline), "--data", str(three_and_two), "--out", str(out))
    assert call([*data, *small, "--epochs", "3"]) == 0
    size = int(options[1]) if options else 2
    size *= 2 if "--set" in options else 1
    assert steps == math.ceil(3 * 7 / size)
    assert steps_taken(out) == steps
    entries = metadata(out / "adapter.safetensors")
    assert (entries["ss_steps"], entries["ss_max_train_steps"]) == (str(steps), str(steps))
    assert entries["ss_epoch"] == entries["ss_num_epochs"] == str(max(3, steps * size // 7))
    config = read_config(out / "config.toml")
    assert (config.training.epochs, config.training.steps) == (3, None)


def test_every_example_is_shown_once_per_epoch(tiny_pipeline: Path, three_and_two: Path, tmp_path: Path) -> None:
    config = short_config(tiny_pipeline, three_and_two, tmp_path / "out", SMALL, "training.epochs=3")
    setup = prepare(config, plugins(), Console(quiet=True))
    assert (setup.epochs, setup.steps) == (Epochs(7, 2), 11)
    shown = Counter[int]()
    for step in range(setup.steps - 1):
        shown.update(setup.data.sample(step, 2, 0).indices)
    shown[setup.data.sample(10, 2, 0).indices[0]] += 1  # the 21st example; the 22nd is of the fourth epoch
    assert [shown[index] for index in range(5)] == [3 * example.repeats for example in setup.data.examples]


def test_the_epoch_of_a_step() -> None:
    epochs = Epochs(7, 2)
    assert [epochs.at(step) for step in range(12)] == [0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert [step for step in range(1, 15) if epochs.due(step, None, 1)] == [4, 7, 11, 14]
    assert [step for step in range(1, 15) if epochs.due(step, None, 2)] == [7, 14]
    assert [step for step in range(1, 9) if epochs.due(step, 3, None)] == [3, 6]
    assert not any(epochs.due(step, 0, None) for step in range(1, 9))
    assert [epochs.complete(epochs.steps(count)) for count in range(1, 9)] == list(range(1, 9))


def test_a_step_of_several_epochs_is_due_once() -> None:
    assert [Epochs(2, 6).due(step, None, 2) for step in (1, 2, 3)] == [True, True, True]
    assert [Epochs(2, 6).due(step, None, 4) for step in (1, 2, 3, 4)] == [False, True, True, True]


def test_checkpoints_and_previews_by_epoch(tiny_pipeline: Path, three_and_two: Path, tmp_path: Path) -> None:
    sets = (
        *("training.epochs=4", SMALL, "checkpoint.every_epochs=1", "checkpoint.keep=9"),
        *("preview.enabled=true", "preview.every_epochs=2", "preview.steps=1", "preview.prompts=fox"),
    )
    # `short_config` gives steps between checkpoints, which epochs from the same source would contradict.
    given = [f"base={tiny_pipeline}", f"data.folder={three_and_two}", f"out={tmp_path / 'out'}"]
    run(read_config(sets=[*given, "training.batch_size=2", *sets]))
    names = files_in(tmp_path / "out")
    checkpoints = [name for name in names if name.endswith(".state.safetensors")]
    assert checkpoints == [f"checkpoints/step-{step:06}.state.safetensors" for step in (4, 7, 11, 14)]
    assert [name for name in names if "previews" in name] == [
        "previews/step-000007-0.png",
        "previews/step-000014-0.png",
    ]
    early = metadata(tmp_path / "out" / "checkpoints" / "step-000004.safetensors")
    assert (early["ss_epoch"], early["ss_num_epochs"]) == ("1", "4")


def test_regularisation_doubles_an_epoch(tiny_pipeline: Path, write_data: WriteData, tmp_path: Path) -> None:
    data = write_data({"a.png": "fox", "b.png": "owl", "c.png": "cat"})
    folder = tmp_path / "class"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes((data / f"{name}.png").read_bytes())
        (folder / f"{name}.txt").write_text("animal")
    sets = "training.epochs=2", f"regularisation.folder={folder}", SMALL
    setup = prepare(short_config(tiny_pipeline, data, tmp_path / "out", *sets), plugins(), Console(quiet=True))
    assert (setup.epochs.examples, setup.steps) == (6, 6)


def test_more_epochs_resume_bit_for_bit(tiny_pipeline: Path, three_and_two: Path, tmp_path: Path) -> None:
    straight = run(short_config(tiny_pipeline, three_and_two, tmp_path / "straight", SMALL, "training.epochs=3"))
    data = ("--data", str(three_and_two), "--base", str(tiny_pipeline), "--out", str(tmp_path / "out"))
    small = ("--blocks", "mid=2", "--batch-size", "2", "--set", "preview.enabled=false")
    assert call([*data, *small, "--epochs", "1"]) == 0
    assert steps_taken(tmp_path / "out") == 4
    assert call(["--out", str(tmp_path / "out"), "--resume", "--epochs", "3"]) == 0
    assert steps_taken(tmp_path / "out") == 11
    assert same_tensors(straight, tmp_path / "out" / "adapter.safetensors")


def test_steps_may_follow_epochs(tiny_pipeline: Path, three_and_two: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(short_config(tiny_pipeline, three_and_two, out, SMALL, "training.epochs=1"))
    assert call(["--out", str(out), "--resume", "--steps", "5"]) == 0
    config = read_config(out / "config.toml")
    assert (config.training.steps, config.training.epochs) == (5, None)
    assert steps_taken(out) == 5


def test_fewer_epochs_than_taken_are_refused(
    tiny_pipeline: Path, three_and_two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(short_config(tiny_pipeline, three_and_two, out, SMALL, "training.epochs=2"))
    assert call(["--out", str(out), "--resume", "--epochs", "1"]) == 2
    assert "--epochs 1 (4 steps): the run has already taken 7 steps. Give more epochs" in one_line(capsys)


def test_a_schedule_fixes_the_number_of_epochs(tiny_pipeline: Path, three_and_two: Path, tmp_path: Path) -> None:
    sets = SMALL, "training.schedule=linear"
    run(short_config(tiny_pipeline, three_and_two, tmp_path / "out", *sets, "training.epochs=1"))
    more = short_config(tiny_pipeline, three_and_two, tmp_path / "out", *sets, "training.epochs=2")
    with pytest.raises(BwlabError, match=r"--resume: training\.steps is 7, but was 4 when step 4 was saved"):
        run(more, existing=ExistingRun.RESUME)


def test_a_warm_up_longer_than_the_epochs_is_refused(tiny_pipeline: Path, three_and_two: Path, tmp_path: Path) -> None:
    sets = SMALL, "training.epochs=1", "training.warmup=4"
    with pytest.raises(BwlabError, match=r"training\.warmup = 4: the run has 4 steps"):
        run(short_config(tiny_pipeline, three_and_two, tmp_path / "out", *sets))
    assert not (tmp_path / "out").exists()


def test_the_bar_says_the_epoch(tiny_pipeline: Path, three_and_two: Path, tmp_path: Path) -> None:
    text = io.StringIO()
    config = short_config(tiny_pipeline, three_and_two, tmp_path / "out", SMALL, "training.epochs=3")
    run(config, console=Console(file=text, width=200))
    assert "training steps 11/11 epoch 3/3 loss " in text.getvalue()


PAIRS = [
    ("training.steps", "training.epochs"),
    ("preview.every", "preview.every_epochs"),
    ("checkpoint.every", "checkpoint.every_epochs"),
]


@pytest.mark.parametrize(("steps", "epochs"), PAIRS)
def test_steps_and_epochs_exclude_each_other(tmp_path: Path, steps: str, epochs: str) -> None:
    first, second = sorted((steps, epochs))
    with pytest.raises(BwlabError) as caught:
        read_config(sets=[f"{epochs}=2", f"{steps}=3"])
    assert str(caught.value) == f"--set: {first}: {second} is given too (--set). Give one of them"
    path = tmp_path / "run.toml"
    section, key = steps.split(".")
    path.write_text(f"[{section}]\n{key} = 3\n{epochs.split('.')[1]} = 2\n")
    with pytest.raises(BwlabError, match="is given too"):
        read_config(path)


@pytest.mark.parametrize(("steps", "epochs"), PAIRS)
def test_the_later_of_steps_and_epochs_wins(tmp_path: Path, steps: str, epochs: str) -> None:
    path = tmp_path / "run.toml"
    section, key = epochs.split(".")
    path.write_text(f"[{section}]\n{key} = 2\n")
    of_file = getattr(read_config(path), section)
    assert (getattr(of_file, key), getattr(of_file, steps.split(".")[1])) == (2, None)
    of_flag = getattr(read_config(path, None, {steps: ("--x", 3)}), section)
    assert (getattr(of_flag, key), getattr(of_flag, steps.split(".")[1])) == (None, 3)
    of_preset = getattr(read_config(path, "paper"), section)
    assert (getattr(of_preset, key), getattr(of_preset, steps.split(".")[1])) == (2, None)


def test_both_options_are_one_line(
    tiny_pipeline: Path, three_and_two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--base", str(tiny_pipeline), "--data", str(three_and_two), "--out", str(tmp_path / "out"))
    assert call([*data, "--steps", "3", "--epochs", "2"]) == 2
    assert "--epochs: training.epochs: training.steps is given too (--steps). Give one of them" in one_line(capsys)


def test_settings_in_epochs_are_written_and_read_back(tmp_path: Path) -> None:
    config = read_config(sets=["training.epochs=7", "checkpoint.every_epochs=2"])
    path = tmp_path / "config.toml"
    path.write_text(toml_text(config))
    assert read_config(path) == config
    sources = collect(path, None, {}, ())
    assert "# steps is not set" in toml_with_origins(build_config(sources), sources)


def test_programs_may_give_one_of_both() -> None:
    assert OptimizerConfig(epochs=2).steps is None
    assert OptimizerConfig(epochs=2).replace(steps=4) == OptimizerConfig(steps=4)
    assert OptimizerConfig().replace(epochs=4) == OptimizerConfig(epochs=4)
    assert CheckpointConfig(every_epochs=1).every is None
    with pytest.raises(BwlabError, match=r"epochs = 2: steps = 3 is given too\. Give one of them"):
        OptimizerConfig(epochs=2, steps=3)
