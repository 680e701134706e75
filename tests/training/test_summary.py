"""The summary of a run, and a dry run that writes nothing."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.dataset.small_data import WriteData
from tests.training.runs import files_in, run, short_config
from tests.training.test_train_command import arguments, call

EXPECTED = """\
images        3 images, 5 with repeats; 2 regularisation images, shown as often in total
steps         8: 3.2 epochs of 10 images
batch         4 images per step: batch size 2 × accumulation 2 × 1 process
"""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have lines of 120 characters, whatever the terminal of the tests."""
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def data(write_data: WriteData) -> Path:
    return write_data({"a.png": "fox", "2_x/b.png": "owl", "2_x/c.png": "cat"})


def options(tmp_path: Path, data: Path) -> list[str]:
    """Return the options of a run with regularisation images."""
    folder = tmp_path / "class"
    folder.mkdir()
    for name in ("b", "c"):
        (folder / f"{name}.png").write_bytes((data / "2_x" / f"{name}.png").read_bytes())
    more = ("--set", "regularisation.prompt=animal", "--set", f"regularisation.folder={folder}", "--epochs", "3")
    return ["--accumulation", "2", "--blocks", "in0=2, in1=2, mid=4", "--block-lr", "mid=1e-4", *more]


def test_a_dry_run_shows_the_summary_and_writes_nothing(
    tiny_pipeline: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    out = tmp_path / "out"
    given = [each for each in arguments(tiny_pipeline, data, out, *options(tmp_path, data)) if each not in ("--steps",)]
    given.remove("2")  # the number of steps
    before, cached = files_in(tmp_path), files_in(own_cache)
    assert call([*given, "--dry-run"]) == 0
    captured = capsys.readouterr()
    text = "".join(f"{line.rstrip()}\n" for line in captured.out.splitlines())
    assert EXPECTED in text
    assert re.search(r"\nmemory        [\d.]+ MB for the base, [\d.]+ MB for what is trained with its gradients", text)
    assert re.search(r"\ntime          about \d+ seconds?, judged from one pass of the denoiser", text)
    assert "\nranks         in0 to in1 2, mid 4\n" in text
    assert "\noptimiser     adamw, rate 0.0005 (blocks: mid=1e-4), schedule constant\n" in text
    assert len(text.splitlines()) < 24
    assert (files_in(tmp_path), files_in(own_cache)) == (before, cached)
    assert call(given) == 0
    assert EXPECTED in "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().err.splitlines())


def test_blocks_that_are_not_neighbours_are_no_range(
    tiny_pipeline: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = ("--blocks", "in0=2, mid=2", "--dry-run")
    assert call([*arguments(tiny_pipeline, data, tmp_path / "out", *blocks)]) == 0
    assert "ranks         in0 2, mid 2" in capsys.readouterr().out


def test_a_dry_run_generates_no_regularisation_images(
    tiny_pipeline: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (f"regularisation.folder={tmp_path / 'class'}", "regularisation.generate=7", "regularisation.prompt=a")
    sets = [part for each in settings for part in ("--set", each)]
    assert call([*arguments(tiny_pipeline, data, tmp_path / "out", *sets), "--dry-run"]) == 0
    assert "5 with repeats; 0 regularisation images, 7 to be generated" in capsys.readouterr().out
    assert not (tmp_path / "class").exists()
    (tmp_path / "class").mkdir()
    assert call([*arguments(tiny_pipeline, data, tmp_path / "out", *sets), "--dry-run"]) == 0
    assert "5 with repeats; 0 regularisation images, 7 to be generated" in capsys.readouterr().out
    (tmp_path / "class" / "mine.png").write_bytes((data / "a.png").read_bytes())
    assert call([*arguments(tiny_pipeline, data, tmp_path / "out", *sets), "--dry-run"]) == 0
    assert "5 with repeats; 1 regularisation image, 6 to be generated" in capsys.readouterr().out
    assert files_in(tmp_path / "class") == ["mine.png"]


def test_the_numbers_are_those_of_the_run(tiny_pipeline: Path, data: Path, tmp_path: Path) -> None:
    import safetensors.torch

    text = io.StringIO()
    sets = "training.steps=1", "adapter.blocks=mid=2"
    file = run(short_config(tiny_pipeline, data, tmp_path / "out", *sets), console=Console(file=text, width=300))
    tensors = {k: t for k, t in safetensors.torch.load_file(file).items() if not k.endswith("alpha")}
    numbers, modules = sum(t.numel() for t in tensors.values()), len(tensors) // 2
    assert f"trained       {numbers:,} parameters, locon in {modules} modules" in text.getvalue()
    assert f"saved         {file} (fp32)" in text.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_the_summary_fits_the_terminal(tiny_pipeline: Path, data: Path, tmp_path: Path, width: int) -> None:
    text = io.StringIO()
    sets = "training.steps=1", "adapter.blocks=all=2"
    run(short_config(tiny_pipeline, data, tmp_path / "o", *sets), console=Console(file=text, width=width))
    lines = text.getvalue().splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= width


def test_a_dry_run_refuses_what_a_run_refuses(
    tiny_pipeline: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, named in (
        (("--warmup", "9"), "the run has 2 steps"),
        (("--blocks", "uper=1"), "Did you mean upper?"),
        (("--resume",), "no run to resume: there is no such folder"),
        (("--set", "data.resolution=30"), "data.resolution = 30"),
    ):
        assert call([*arguments(tiny_pipeline, data, tmp_path / "out", *more), "--dry-run"]) == 2
        assert named in capsys.readouterr().err


HEAVY = "torch", "diffusers", "transformers", "accelerate"
CHECK = f"""
import contextlib, io, json, sys
from bwlab.cli.app import main
for line in sys.stdin:
    code, out, err = None, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(json.loads(line))
        except SystemExit as end:
            code = end.code
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([code, out.getvalue(), err.getvalue(), heavy]))
"""


def test_a_mistake_is_told_before_anything_heavy_is_imported(tiny_pipeline: Path, data: Path, tmp_path: Path) -> None:
    """One process makes them all: none imports what another would find imported."""
    mistakes = [
        (("train", "--blocks", "uper=4"), "Did you mean upper?"),
        (("train", "--block-lr", "uper=1e-3"), "Did you mean upper?"),
        (("train", "--adapter", "lokon"), "adapter type 'lokon'"),
        (("train", "--set", "adapter.options.rank_dropuot=0.3"), "locon has no such option"),
        (("train", "--initial", "no.safetensors"), "adapter.initial = no.safetensors: no such file"),
        (("train", "--initial", "text.safetensors"), "text.safetensors"),
        (("train", "--optimizer", "adan"), "Did you mean adamw?"),
        (("train", "--data", "nowhere"), "--data nowhere: no such folder"),
        (("train", "--resume"), "no run to resume"),
        (("generate", "--sampler", "eulr"), "Did you mean euler?"),
        (("generate", "--adapter", "text.safetensors"), "text.safetensors"),
        (("generate", "--adapter", "fox.safetensors:uper=1"), "Did you mean upper?"),
        (("generate", "--xy", "scle: 1", ""), "Did you mean scale?"),
    ]
    (tmp_path / "text.safetensors").write_text("this is a text")
    fox = run(short_config(tiny_pipeline, data, tmp_path / "run", "adapter.blocks=mid=1", "training.steps=1"))
    (tmp_path / "fox.safetensors").write_bytes(fox.read_bytes())
    needed = {"train": ["--data", str(data), "--out", "out"], "generate": ["--prompt", "fox"]}
    calls = [[command, "--base", str(tiny_pipeline), *needed[command], *more] for (command, *more), _ in mistakes]
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        input="\n".join(map(json.dumps, calls)),
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=True,
    )
    for (typed, named), line in zip(mistakes, done.stdout.splitlines(), strict=True):
        code, out, err, heavy = json.loads(line)
        assert (code, out, heavy) == (2, "", []), typed
        assert named in err
        assert err.count("\n") == 1, typed
    assert not (tmp_path / "out").exists()
