"""`bwlab train` as it is typed: runs, and bad input, which takes one line and exits with 2."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import typer
from typer.main import get_command

import bwlab
from bwlab.cli.app import exit_as_asked, exit_on_error, main
from bwlab.cli.train import command
from bwlab.generation.recipe import read_recipe
from bwlab.plugins.events import StepRecord
from bwlab.plugins.manager import PluginManager, build_manager
from bwlab.training.settings import read_config
from tests.dataset.small_data import WriteData
from tests.training.runs import files_in

FEW = ("--steps", "2", "--batch-size", "2", "--blocks", "all=2", "--set", "preview.enabled=false")


def call(arguments: Sequence[str]) -> int:
    """Run the command as the console script does and return its exit code."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    train: Any = get_command(app)
    with pytest.raises(SystemExit) as left:
        exit_on_error(
            lambda: exit_as_asked(lambda: train.main(list(arguments), prog_name="bwlab train", standalone_mode=False)),
            lambda: False,
        )
    return int(left.value.code or 0)


def arguments(base: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["--base", str(base), "--data", str(data), "--out", str(out), *FEW, *more]


def test_flags_make_a_run(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--adapter", "lora", "--alpha", "1.5", "--lr", "1e-3", "--seed", "3", "--preset", "paper", "--steps", "3")
    without = ("--set", "regularisation.generate=0")
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", *more, *without)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'adapter.safetensors'}\n"
    config = read_config(tmp_path / "out" / "config.toml")
    assert (config.adapter.type, config.adapter.alpha, config.adapter.blocks) == ("lora", 1.5, "all=2")
    assert (config.training.lr, config.training.seed, config.training.steps) == (1e-3, 3, 3)
    assert config.data.repeats == 25


def test_blocks_in_which_the_type_has_no_layer_are_named(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """in3 has no attention; `all` and `*` hold it too, and say nothing of it."""
    warning = "lora adapts no layer in in3\n"
    for place, (blocks, said) in enumerate((("in3=4, mid=2, out0=0", True), ("all=2", False), ("2", False))):
        more = "--adapter", "lora", "--blocks", blocks
        assert call(arguments(tiny_pipeline, two_images, tmp_path / str(place), *more)) == 0
        assert (warning in capsys.readouterr().err) is said


def test_resume_reads_the_runs_own_settings(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(arguments(tiny_pipeline, two_images, out, "--lr", "3e-3")) == 0
    assert call(["--out", str(out), "--resume", "--steps", "4"]) == 0
    config = read_config(out / "config.toml")
    assert (config.training.lr, config.training.steps) == (3e-3, 4)


def test_a_toml_file_makes_a_run(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        f'base = "{tiny_pipeline}"\nout = "{tmp_path / "out"}"\n[adapter]\nblocks = "mid=3"\n'
        f'[data]\nfolder = "{two_images}"\n[training]\nsteps = 1\n[preview]\nenabled = false\n'
    )
    assert call([str(path)]) == 0
    tensors = safetensors.torch.load_file(tmp_path / "out" / "adapter.safetensors")
    assert all(key.startswith("lora_unet_mid_block_") for key in tensors)


def test_previews_name_the_file_that_holds_their_weights(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "fox"
    settings = ("preview.enabled=true", "preview.every=1", "preview.steps=1", "preview.prompts=owl", "preview.seed=4")
    more = [word for setting in (*settings, "checkpoint.every=2") for word in ("--set", setting)]
    assert call(arguments(tiny_pipeline, two_images, out, "--steps", "3", *more)) == 0
    recipes = [read_recipe(out / "previews" / f"step-{step:06}-0.png") for step in (1, 2, 3)]
    assert {(recipe.prompt, recipe.seed, recipe.steps, recipe.cfg, recipe.width) for recipe in recipes} == {
        ("owl", 4, 1, 7.0, 32)
    }
    named = [(use.name, use.sha256) for recipe in recipes for use in recipe.adapters]
    checkpoint, final = out / "checkpoints" / "step-000002.safetensors", out / "adapter.safetensors"
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (checkpoint, final)]
    assert named == [("fox-step-000001", ""), ("fox-step-000002", hashes[0]), ("fox", hashes[1])]
    assert "Lora hashes" not in recipes[0].parameters()
    assert f'Lora hashes: "fox: {hashes[1][:10]}"' in recipes[2].parameters()


BAD_VALUES = [
    (["--blocks", "uper=4"], "uper"),
    (["--blocks", "upper=-1"], "-1"),
    (["--blocks", "upper=nan"], "nan"),
    (["--blocks", "upper=1.5"], "1.5"),
    (["--blocks", "all=0"], "all=0"),
    (["--adapter", "loram"], "loram"),
    (["--alpha", "nan"], "--alpha: adapter.alpha = nan"),
    (["--alpha", "-1"], "--alpha: adapter.alpha = -1"),
    (["--steps", "0"], "--steps 0"),
    (["--steps", "1.5"], "--steps 1.5"),
    (["--batch-size", "-4"], "--batch-size"),
    (["--lr", "nan"], "--lr: training.lr = nan"),
    (["--lr", "0"], "--lr: training.lr = 0.0: out of range"),
    (["--seed", "x"], "--seed"),
    (["--optimizer", "adam"], "optimiser 'adam': no plugin registers it. Did you mean adamw?"),
    (["--preset", "papper"], "papper"),
    (["--set", "training.step=3"], "Did you mean training.steps?"),
    (["--set", "adapter.options.rank_dropuot=0.3"], "rank_dropuot"),
    (["--base", "no/such/folder"], "no/such/folder"),
    (["--data", "no/such/folder"], "--data no/such/folder"),
    (["--resume", "--overwrite"], "both --resume and --overwrite"),
    (["no/such.toml"], "no/such.toml"),
]


@pytest.mark.parametrize(("more", "named"), BAD_VALUES, ids=[" ".join(more) for more, _ in BAD_VALUES])
def test_bad_values_take_one_line_and_write_nothing(
    tiny_pipeline: Path,
    two_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    named: str,
) -> None:
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", *more)) == 2
    assert named in one_line(capsys)
    assert not (tmp_path / "out").exists()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line on stderr, which must be an error's."""
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.strip()]
    assert re.match(r"bwlab: error: .+: .+\. .+", line)
    return line


def test_a_base_that_is_no_pipeline(two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(arguments(tmp_path, two_images, tmp_path / "out")) == 2
    assert str(tmp_path) in one_line(capsys)


def test_an_empty_data_folder(tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert call(arguments(tiny_pipeline, tmp_path / "data", tmp_path / "out")) == 2
    assert "no images in it" in one_line(capsys)


def test_a_missing_caption(
    tiny_pipeline: Path, write_data: WriteData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_data({"a.png": None})
    assert call(arguments(tiny_pipeline, folder, tmp_path / "out")) == 2
    assert "a.png" in one_line(capsys)
    assert call(arguments(tiny_pipeline, folder, tmp_path / "out", "--set", "data.caption=a fox")) == 0


def test_an_unreadable_image(
    tiny_pipeline: Path, write_data: WriteData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_data({"a.png": "fox", "b.png": "owl"})
    (folder / "b.png").write_bytes(b"nonsense")
    assert call(arguments(tiny_pipeline, folder, tmp_path / "out")) == 2
    assert "b.png" in one_line(capsys)
    assert not (tmp_path / "out").exists()
    assert call(arguments(tiny_pipeline, folder, tmp_path / "out", "--set", "data.skip_broken=true")) == 0
    assert "left out" in capsys.readouterr().err


def test_a_folder_in_use(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out")) == 2
    assert "Add --resume or --overwrite" in one_line(capsys)
    assert files_in(tmp_path / "out") == ["mine.txt"]
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", "--overwrite")) == 0
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep me"


class CtrlC:
    """A plugin that interrupts after the first step."""

    @bwlab.hookimpl
    def bwlab_step_finished(self, record: StepRecord) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_exits_130(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> PluginManager:
        return build_manager([CtrlC()])

    monkeypatch.setattr("bwlab.plugins.manager.build_manager", interrupted)
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out")) == 130
    assert "checkpoints/step-000001.state.safetensors" in files_in(tmp_path / "out")


class Broken:
    """A plugin whose hooks raise from the second step on."""

    __name__ = "broken"

    calls = 0

    @bwlab.hookimpl
    def bwlab_step_finished(self, record: StepRecord) -> None:
        type(self).calls += 1
        if record.step > 1:
            raise ValueError("the tracker's disk is full")


class Leaving:
    """A plugin whose hook ends the program."""

    __name__ = "leaving"

    @bwlab.hookimpl
    def bwlab_step_finished(self, record: StepRecord) -> None:
        raise SystemExit("step boom")


def giving(losses: object) -> type[object]:
    """Return a plugin that gives these extra losses."""

    class Giving:
        __name__ = "giving"

        @bwlab.hookimpl
        def bwlab_extra_losses(self, prediction: torch.Tensor) -> object:
            return losses

    return Giving


GIVING = r"bwlab: error: (training step 1, )?bwlab_extra_losses of plugin giving of .*: "


class BrokenLoss:
    """A plugin whose loss raises."""

    __name__ = "broken-loss"

    @bwlab.hookimpl
    def bwlab_extra_losses(self, prediction: torch.Tensor) -> dict[str, torch.Tensor]:
        raise ValueError("no reference images")


@pytest.mark.parametrize(
    ("plugin", "code", "said"),
    [
        (Broken, 0, r"bwlab: warning: hook bwlab_step_finished of plugin broken of .* is left out .* disk is full"),
        (
            BrokenLoss,
            2,
            r"bwlab: error: bwlab_extra_losses of plugin broken-loss of .*: ValueError: no reference images",
        ),
        (Leaving, 0, r"bwlab: warning: hook bwlab_step_finished of plugin leaving of .* is left out .* step boom"),
        (giving({"mine": "x"}), 2, f"{GIVING}the loss 'mine' is str, not a tensor of one number"),
        (
            giving({"mine": torch.ones(3)}),
            2,
            rf"{GIVING}the loss 'mine' is a tensor of shape \(3,\), not a tensor of one",
        ),
        (giving([torch.ones(1)]), 2, f"{GIVING}it returned list, not losses by name"),
        (
            giving({"mine": torch.tensor(float("nan"))}),
            2,
            f"{GIVING}the loss 'mine' is nan; no checkpoint yet. Mend or dis",
        ),
    ],
)
def test_a_hook_that_raises_is_named(
    tiny_pipeline: Path,
    two_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plugin: type[object],
    code: int,
    said: str,
) -> None:
    Broken.calls = 0
    monkeypatch.setattr("bwlab.cli.app.build_manager", lambda **_: build_manager([plugin()]))
    with pytest.raises(SystemExit) as end:
        main(["train", *arguments(tiny_pipeline, two_images, tmp_path / "out", "--steps", "4")])
    assert int(end.value.code or 0) == code
    error = capsys.readouterr().err
    assert re.search(f"^{said}", error, re.MULTILINE), error
    assert error.count("bwlab: ") == 1
    if plugin is Broken:
        assert Broken.calls == 2  # of four steps: it is not called again
        assert (tmp_path / "out" / "adapter.safetensors").is_file()


def test_previews_and_prompts_of_analyses_warn_of_syntax_that_they_do_not_read(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bwlab_analysis.activations.inputs import read_prompts

    prompt = "fox <lora:x:1> (fox:1.2), BREAK"
    previews = ("--set", "preview.enabled=true", "--set", f"preview.prompts=['{prompt}']", "--set", "preview.steps=1")
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", "--steps", "1", *previews)) == 0
    said = "prompt syntax read as plain words: (fox:1.2), BREAK, <lora:x:1>. Only 'bwlab generate' has --weighting"
    assert f"bwlab: warning: previews: {said}" in capsys.readouterr().err
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(prompt)
    read_prompts(prompts)
    assert f"bwlab: warning: --prompts {prompts}: {said}" in capsys.readouterr().err
