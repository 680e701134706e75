"""The demo on a tiny base: what it trains on, what it writes, and that it can be stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import typer
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file
from typer.main import get_command

from bwlab.benchmark import load_benchmark
from bwlab.cli.app import exit_on_error
from bwlab.errors import BwlabError
from bwlab.generation.recipe import read_recipe
from bwlab.plugins.manager import build_manager
from bwlab_analysis import demo
from bwlab_analysis.cli.demo import demo_command
from bwlab_analysis.demo import (
    FULL,
    IDENTITY,
    QUICK,
    STYLE_FULL,
    DemoPlan,
    DemoResult,
    columns,
    plan_for,
    prepare_folder,
    run_demo,
    trainings,
    write_data,
)
from tests.analysis.small_bases import save_small_base
from tests.families.pipelines import save_tiny_sd3


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Keep latents and embeddings outside the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BWLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def plan(tiny_pipeline: Path) -> DemoPlan:
    return replace(
        QUICK, base=str(tiny_pipeline), identity_steps=3, style_steps=2, batch_size=2, seeds=2, sampling_steps=2
    )


@pytest.fixture(scope="module")
def done(plan: DemoPlan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult]:
    """Return the folder and the result of a whole demo."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run_demo(plan, out, build_manager(), Console(quiet=True))


def keys(path: Path) -> set[str]:
    with safetensors.safe_open(path, "np") as file:
        return set(file.keys())


def test_neither_data_folder_holds_the_pair_to_be_made(tmp_path: Path) -> None:
    write_data(FULL, load_benchmark(), tmp_path)
    identity = {path.read_text() for path in (tmp_path / "identity").glob("*.txt")}
    style = {path.read_text() for path in (tmp_path / "style").glob("*.txt")}
    assert identity == {f"{word}, fox, white background" for word in ("noto", "blob", "twemoji", "flat", "glossy")}
    assert len(style) == 24
    assert all(caption.startswith("ink, ") and "fox" not in caption for caption in style)


@pytest.mark.slow
def test_upper_is_upper_only(done: tuple[Path, DemoResult]) -> None:
    _, result = done
    upper, full, identity = (keys(result.adapters[name]) for name in (FULL.style_part, STYLE_FULL, IDENTITY))
    assert upper
    assert upper < full == identity
    assert all(key.startswith(("lora_unet_down_blocks_0_", "lora_unet_up_blocks_3_")) for key in upper)


def test_the_sheet_shows_every_combination_and_the_truth(plan: DemoPlan, done: tuple[Path, DemoResult]) -> None:
    out, result = done
    labels = [column.label for column in columns(plan)]
    assert labels == [
        "base alone",
        "identity alone",
        "style alone",
        "full + full",
        "full + upper",
        "full + full, scaled",
    ]
    assert result.sheet == out / "sheet.png"
    with Image.open(result.sheet) as sheet:
        assert sheet.width > 7 * 192
        assert sheet.height > 2 * 192
    assert len(list(result.images.iterdir())) == 6 * plan.seeds


def test_every_image_has_its_recipe(plan: DemoPlan, done: tuple[Path, DemoResult]) -> None:
    _, result = done
    recipe = read_recipe(result.images / "full+upper-seed1.png")
    assert (recipe.prompt, recipe.seed, recipe.cfg) == ("ink, fox, white background", 1, plan.cfg)
    assert [use.name for use in recipe.adapters] == ["identity", "style-upper"]
    assert read_recipe(result.images / "basealone-seed0.png").adapters == ()
    scaled = read_recipe(result.images / "full+full-scaled-seed0.png")
    assert [use.scale for use in scaled.adapters] == ["middle=1.5, *=1", "upper=1.2, *=0.7"]


def test_conflicts_are_measured(done: tuple[Path, DemoResult]) -> None:
    out, result = done
    assert [path.name for path in result.conflicts] == [
        "conflict-identity-style-full.json",
        "conflict-identity-style-upper.json",
    ]
    documents = [json.loads(path.read_text()) for path in result.conflicts]
    assert all(document["schema"] == "bwlab.analyze.conflict" for document in documents)
    assert out in result.conflicts[0].parents


@pytest.mark.slow
def test_a_stopped_demo_continues(
    plan: DemoPlan, done: tuple[Path, DemoResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(demo, "generate_columns", stop)
        with pytest.raises(KeyboardInterrupt):
            run_demo(plan, out, build_manager(), Console(quiet=True))
    trained = {training.name: (out / training.name / "adapter.safetensors") for training in trainings(plan)}
    before = {name: path.read_bytes() for name, path in trained.items()}
    result = run_demo(plan, out, build_manager(), Console(quiet=True))
    assert {name: path.read_bytes() for name, path in trained.items()} == before
    assert result.sheet.read_bytes() == done[1].sheet.read_bytes()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(BwlabError, match="was not written by a demo"):
            prepare_folder(tmp_path, overwrite)
    assert (tmp_path / "letter.txt").read_text() == "mine"
    with pytest.raises(BwlabError, match="a file of that name is in the way"):
        prepare_folder(tmp_path / "letter.txt", False)


def test_overwrite_starts_anew(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "demo", False)
    (tmp_path / "demo" / "old").touch()
    prepare_folder(tmp_path / "demo", False)
    assert (tmp_path / "demo" / "old").exists()
    prepare_folder(tmp_path / "demo", True)
    assert not (tmp_path / "demo" / "old").exists()


def call(arguments: Sequence[str]) -> int:
    """Run the command as the console script does and return its exit code."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(demo_command)
    with pytest.raises(SystemExit) as left:
        exit_on_error(lambda: get_command(app).main(args=list(arguments), prog_name="bwlab demo"), lambda: False)
    return int(left.value.code or 0)


def test_the_command_says_where_everything_lies(
    done: tuple[Path, DemoResult], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[DemoPlan, Path]] = []

    def remember(plan: DemoPlan, out: Path, *_: object, **__: object) -> DemoResult:
        asked.append((plan, out))
        return done[1]

    monkeypatch.setattr(demo, "run_demo", remember)
    assert call(["--quick", "--base", "mine"]) == 0
    assert asked == [(replace(QUICK, base="mine"), Path("runs/demo-quick"))]
    printed = capsys.readouterr().out
    for path in (*done[1].adapters.values(), *done[1].conflicts, done[1].sheet, done[1].images):
        assert str(path) in printed


def test_a_wrong_base_costs_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--out", str(tmp_path / "out"), "--base", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_transformer_has_the_style_in_its_last_third(tmp_path: Path) -> None:
    folder = save_tiny_sd3(tmp_path / "sd3")
    plan = plan_for(str(folder), build_manager(), quick=True)
    assert (plan.part_blocks, plan.style_part, plan.scales) == ("late=16", "style-late", ())
    assert [column.label for column in columns(plan)][-1] == "full + late"
    assert plan_for("emoji", build_manager()) == FULL
    xl = plan_for(str(save_small_base("sdxl", tmp_path / "sdxl")), build_manager())
    assert (xl.part_blocks, xl.style_part, xl.scales) == ("style=16", "style-style", ())
    small = replace(plan, identity_steps=1, style_steps=1, batch_size=1, seeds=1, sampling_steps=2)
    result = run_demo(small, tmp_path / "out", build_manager(), Console(quiet=True))
    assert {key.split(".")[2] for key in load_file(result.adapters["style-late"])} == {"3"}
    recipe = read_recipe(result.images / "full+late-seed0.png")
    assert recipe is not None
    assert recipe.sampler == "euler"
