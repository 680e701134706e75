"""`bwlab config`: every setting written out, and where each value comes from."""

from __future__ import annotations

import inspect
import re
import tomllib
import typing
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from bwlab.cli import generate
from bwlab.cli.app import main
from bwlab.cli.train import KEYS, command, parameter_name
from bwlab.config.foreign.ai_toolkit import AI_TOOLKIT
from bwlab.config.foreign.kohya import KOHYA
from bwlab.config.foreign.onetrainer import ONETRAINER
from bwlab.config.foreign.rows import Place
from bwlab.config.foreign_names import GENERATE_HINTS, HINTS, OTHERS
from bwlab.config.model import bound, choices, plain_type
from bwlab.config.sources import setting_fields
from bwlab.training.config import TrainConfig
from bwlab.training.settings import read_config


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


@pytest.mark.parametrize("preset", [None, "paper"])
def test_init_writes_every_setting_and_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preset: str | None
) -> None:
    path = tmp_path / "run.toml"
    more = ("--preset", preset) if preset else ()
    assert exit_code("config", "init", str(path), *more) == 0
    assert capsys.readouterr().out == f"{path}\n"
    text = path.read_text()
    assert read_config(path) == read_config(preset_name=preset)
    named = set(re.findall(r"^(?:# )?(\w+) =|^# \[(\S+)\]", text, re.MULTILINE))
    assert {key or table.rpartition(".")[2] for key, table in named} == {
        key.rpartition(".")[2] for key in setting_fields(TrainConfig)
    }
    assert exit_code("config", "init", str(path)) == 2
    assert "the file exists" in capsys.readouterr().err


def test_every_setting_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("config", "init") == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text)["training"]["batch_size"] == TrainConfig().training.batch_size
    assert "# Images per batch, for each process. (at least 1, at most 65536)\nbatch_size = 4\n" in text
    settings = re.findall(r"(.*)\n(?:# )?\w+ =", text)
    assert len(settings) >= 60
    assert all(comment.startswith("# ") for comment in settings)


def test_show_names_the_source_of_each_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[training]\nsteps = 7\nlr = 1e-3\n")
    sets = ("--set", "training.lr=2e-3", "--set", "adapter.options.mode=fast", "--preset", "paper")
    assert exit_code("config", "show", str(path), *sets) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert f"steps = 7  # {path}" in lines
    assert "lr = 0.002  # --set" in lines
    assert "repeats = 25  # --preset paper" in lines
    assert 'options.mode = "fast"  # --set' in lines
    assert "# initial is not set  # default" in lines
    again = tmp_path / "again.toml"
    again.write_text(text)
    assert read_config(again) == read_config(path, "paper", {}, ["training.lr=2e-3", "adapter.options.mode=fast"])


def test_show_refuses_what_a_run_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("config", "show", "--set", "training.step=3") == 2
    assert capsys.readouterr().err == "bwlab: error: --set: training.step: unknown key. Did you mean training.steps?\n"


def test_options_of_train_have_type_default_and_range_of_their_settings() -> None:
    fields = setting_fields(TrainConfig)
    parameters = inspect.signature(command).parameters
    for flag, key in KEYS.items():
        name = parameter_name(flag)
        kind, option = typing.get_args(parameters[name].annotation)
        field, default = fields[key], parameters[name].default
        assert default == (field.default if field.default != "" else None)
        assert plain_type(kind) is plain_type(field.annotation) or [*typing.cast(typing.Any, plain_type(kind))] == [
            *choices(field)
        ]
        most = bound(field, "le")
        assert (option.min, option.max) == (bound(field, "ge"), None if most == 2**63 - 1 else most)
        assert option.help.startswith(" ".join((field.description or "no description").split()))
    assert parameters["schedule"].default == "constant"
    assert (typing.get_args(parameters["batch_size"].annotation)[1].min, parameters["batch_size"].default) == (1, 4)


@pytest.mark.parametrize(
    ("typed", "completions"),
    [
        ("train --optimizer ad", ["adafactor", "adamw", "adamw8bit"]),
        ("train --adapter lor", ["lora"]),
        ("generate --fusion k", ["k-lora", "kl"]),
        ("train --save-dtype f", ["fp32", "fp16"]),
        ("train --preset ", ["paper"]),
        ("config init --preset ", ["paper"]),
    ],
)
def test_the_shell_completes_choices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, completions: list[str]
) -> None:
    monkeypatch.setenv("_BWLAB_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"bwlab {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split(" "))))
    exit_code()
    assert capsys.readouterr().out.split() == completions


def test_every_flag_of_train_sets_one_key() -> None:
    app = typer.Typer()
    app.command()(command)
    flags = {name for parameter in get_command(app).params for name in parameter.opts if name.startswith("--")}
    flags -= {"--help", "--install-completion", "--show-completion"}
    assert flags == {*KEYS} | {
        *("--resume", "--overwrite", "--dry-run", "--plan-memory", "--preset", "--from", "--from-kohya", "--set")
    }
    assert len(set(KEYS.values())) == len(KEYS)
    assert set(KEYS.values()) <= set(setting_fields(TrainConfig))


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (
            ("--network_dim", "16"),
            "bwlab train --network_dim: a name of another trainer. Here it is the rank of the blocks",
        ),
        (("--network-alpha", "8"), "bwlab train --network-alpha: a name of another trainer. Here it is --alpha"),
        (("--pretrained_model_name_or_path=x",), "Here it is --base (base)"),
        (
            ("--set", "training.network_dim=3"),
            "--set: training.network_dim: a name of another trainer. Here it is",
        ),
        (("--set", "max_train_steps=3"), "Here it is --steps (training.steps)"),
        (("--set", "training.step=3"), "unknown key. Did you mean training.steps?"),
        (("--stepz", "3"), "no such option: --stepz"),
        (("--min_snr_gamma", "5"), "Here it is --set training.min_snr_gamma=5"),
        (("--resolution", "512"), "Here it is --set data.resolution=512"),
        (("--text_encoder_lr", "5e-5"), 'Here it is a learning rate of its own: --block-lr "te=5e-5"'),
    ],
)
def test_names_of_other_trainers_are_translated(
    capsys: pytest.CaptureFixture[str], typed: tuple[str, ...], hint: str
) -> None:
    assert exit_code("train", *typed) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text"), [("ai.yaml", "job: extension\nconfig:\n  name: x\n"), ("trainer.json", '{"batch_size": 4}')]
)
def test_a_config_of_another_trainer_is_told_what_bwlab_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    assert exit_code("train", str(tmp_path / name)) == 2
    error = capsys.readouterr().err
    assert "bwlab's own files are TOML: 'bwlab config init FILE.toml' writes one" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("--guidance_scale", "--cfg"), ("--num_images", "--count"), ("--ckpt", "--base"), ("--weight", "--scale, or")],
)
def test_names_of_other_programs_are_translated_for_generate(
    capsys: pytest.CaptureFixture[str], typed: str, hint: str
) -> None:
    assert exit_code("generate", "--prompt", "fox", typed, "3") == 2
    error = capsys.readouterr().err
    assert f"bwlab generate {typed}: a name of another program. Here it is {hint}" in error
    assert error.count("\n") == 1


def test_every_translation_names_something_that_is_there() -> None:
    flags, keys = {*KEYS, "--set"}, {*setting_fields(TrainConfig)}
    tables = ("adapter.options.", "training.optimizer_options.")
    for row in (*KOHYA, *ONETRAINER, *AI_TOOLKIT):
        if row.place is Place.HERE:
            assert set(re.findall(r"--[a-z-]+", row.says)) <= flags, row
        named = re.findall(r"(?<=--set )[a-z_.]+|(?<=\()[a-z_]+\.[a-z_.]+(?=\))", row.says)
        assert {key for key in named if not key.startswith(tables)} <= keys, row
        assert not row.key or row.key in keys, row
    for name, hint in OTHERS.items():
        assert set(re.findall(r"--[a-z-]+", hint)) <= flags, name
        assert set(re.findall(r"(?<=--set )[a-z_.]+|(?<=\()[a-z_.]+(?=\))", hint)) <= keys, name
    assert len(HINTS) > 400
    assert not set(HINTS) & keys
    app = typer.Typer()
    app.command()(generate.command)
    own = {option for parameter in get_command(app).params for option in parameter.opts}
    for name, hint in GENERATE_HINTS.items():
        assert set(re.findall(r"--[a-z-]+", hint)) <= own, name
        assert f"--{name}" not in own
