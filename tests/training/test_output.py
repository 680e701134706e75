"""The name and the dtype of the adapter file."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from bwlab.generation.recipe import read_recipe
from bwlab.training.run_folder import ExistingRun
from tests.generation.test_generate_command import call as call_generate
from tests.generation.test_generate_command import common
from tests.training.runs import files_in, run, same_tensors, short_config
from tests.training.test_train_command import arguments, call, one_line

SMALL = ("--blocks", "mid=2", "--set", "checkpoint.every=1")


def output_name(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return str(file.metadata()["ss_output_name"])


def test_the_name_is_that_of_all_adapter_files(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call(arguments(tiny_pipeline, two_images, out, *SMALL, "--name", "ink fox.v2")) == 0
    file = out / "ink fox.v2.safetensors"
    assert capsys.readouterr().out == f"{file}\n"
    assert files_in(out) == [
        "checkpoints/ink fox.v2-step-000001.safetensors",
        "checkpoints/ink fox.v2-step-000002.safetensors",
        *(f"checkpoints/step-00000{step}.state.safetensors" for step in (1, 2)),
        "config.toml",
        file.name,
        "log.jsonl",
    ]
    assert output_name(file) == output_name(out / "checkpoints" / "ink fox.v2-step-000001.safetensors") == "ink fox.v2"
    plain = run(short_config(tiny_pipeline, two_images, tmp_path / "plain", "adapter.blocks=mid=2", "training.steps=2"))
    assert plain.name == "adapter.safetensors"
    assert output_name(plain) == "plain"
    assert same_tensors(plain, file)


def test_checkpoints_of_a_name_are_pruned(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    kept = ("--steps", "4", "--set", "checkpoint.keep=1", "--name", "fox")
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", *SMALL, *kept)) == 0
    assert [name for name in files_in(tmp_path / "out") if "checkpoints" in name] == [
        "checkpoints/fox-step-000004.safetensors",
        "checkpoints/step-000004.state.safetensors",
    ]


def test_a_run_resumes_under_another_name(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    straight = run(
        short_config(tiny_pipeline, two_images, tmp_path / "straight", "adapter.blocks=mid=2", "training.steps=4")
    )
    out = tmp_path / "out"
    assert call(arguments(tiny_pipeline, two_images, out, *SMALL, "--name", "fox", "--save-dtype", "fp16")) == 0
    again = ("--out", str(out), "--resume", "--steps", "4", "--name", "owl", "--save-dtype", "fp32")
    assert call([*again, "--set", "checkpoint.keep=1"]) == 0
    assert same_tensors(straight, out / "owl.safetensors")
    assert [name for name in files_in(out) if "checkpoints" in name] == [
        "checkpoints/owl-step-000004.safetensors",
        "checkpoints/step-000004.state.safetensors",
    ]


def test_overwriting_removes_files_of_the_former_name_alone(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call(arguments(tiny_pipeline, two_images, out, *SMALL, "--name", "fox")) == 0
    mine = ("mine.safetensors", "checkpoints/mine-step-000001.safetensors")
    for name in mine:
        (out / name).write_text("keep me")
    config = short_config(tiny_pipeline, two_images, out, "adapter.blocks=mid=2", "training.steps=1")
    run(config, existing=ExistingRun.OVERWRITE)
    steps = [f"checkpoints/step-000001{end}" for end in (".safetensors", ".state.safetensors")]
    assert files_in(out) == sorted([*mine, *steps, "adapter.safetensors", "config.toml", "log.jsonl"])


def test_a_named_file_generates_under_its_name(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "run", *SMALL, "--name", "fox")) == 0
    adapter = ("--adapter", str(tmp_path / "run" / "fox.safetensors"), "--prompt", "ink")
    assert call_generate(*adapter, *common(tiny_pipeline, tmp_path / "images")) == 0
    (entry,) = read_recipe(tmp_path / "images" / "0000-seed0.png").adapters
    assert entry.name == "fox"


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_weights_are_saved_in_the_dtype(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    whole = run(short_config(tiny_pipeline, two_images, tmp_path / "x", "adapter.blocks=mid=2", "training.steps=2"))
    out = tmp_path / "out"
    assert call(arguments(tiny_pipeline, two_images, out, *SMALL, "--save-dtype", name)) == 0
    expected = safetensors.torch.load_file(whole)
    for file in (out / "adapter.safetensors", out / "checkpoints" / "step-000002.safetensors"):
        tensors = safetensors.torch.load_file(file)
        assert tensors.keys() == expected.keys()
        for key, tensor in tensors.items():
            assert tensor.dtype == (torch.float32 if key.endswith("alpha") else dtype)
            assert torch.equal(tensor, expected[key].to(tensor.dtype))
    state = safetensors.torch.load_file(out / "checkpoints" / "step-000002.state.safetensors")
    assert {t.dtype for key, t in state.items() if key.startswith("trainable/")} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/b", "it holds '/'"),
        ("", "it is empty"),
        (".fox", "it starts with a dot"),
        ("fox.safetensors", "the extension is added to it. Give fox"),
        ("x" * 201, "it is longer than 200 bytes"),
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(
    tiny_pipeline: Path,
    two_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    found: str,
) -> None:
    assert call(arguments(tiny_pipeline, two_images, tmp_path / "out", "--name", name)) == 2
    assert f"output.name = {name!r}: {found}" in one_line(capsys)
    assert not (tmp_path / "out").exists()
