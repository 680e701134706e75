"""`bwlab plugins new --kind`: for every kind a project that installs, is listed, keeps its contract, and acts."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from bwlab.cli.app import main
from bwlab.cli.plugins import KIND_NAMES
from bwlab.errors import BwlabError
from bwlab.plugins.kinds import PluginKind
from bwlab.plugins.manager import build_manager
from bwlab.plugins.scaffold import write_project
from tests.plugins import typed_files

KINDS = (
    "adapter",
    "command",
    "conflict",
    "family",
    "format",
    "fusion",
    "metric",
    "optimizer",
    "scheme",
    "scorer",
    "tagger",
)
OURS = "bwlab"


def own_kinds() -> dict[str, PluginKind]:
    foreign = [record.name for record in build_manager().records if record.distribution != OURS]
    return build_manager(disabled=foreign).plugin_kinds()


def name_of(kind: str) -> str:
    """Return the name of the project of a kind, in two words."""
    return f"try-{kind}"


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the project of each kind through the command line and return their folder."""
    folder = tmp_path_factory.mktemp("projects")
    for kind in KINDS:
        with pytest.raises(SystemExit) as end:
            main(["plugins", "new", name_of(kind), "--kind", kind, "--out", str(folder / kind)])
        assert end.value.code in (0, None)
    return folder


@pytest.fixture(scope="module")
def site(projects: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install all projects into one folder with pip, without an index, and return it."""
    folder = tmp_path_factory.mktemp("site")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(folder)]
    done = subprocess.run([*command, *(str(projects / kind) for kind in KINDS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let commands of this process find the installed projects."""
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield site
    for module in [name for name in sys.modules if name.startswith("bwlab_try_")]:
        del sys.modules[module]


@pytest.fixture(scope="module")
def own_tests(projects: Path, site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bool]]:
    """Run the tests that the projects bring, in one process of their own; kind -> whether each passed."""
    report = tmp_path_factory.mktemp("report") / "report.xml"
    code = f"import sys; sys.path[:0] = {[str(site)]!r}; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    arguments = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"--rootdir={projects}"]
    folders = [str(projects / kind / "tests") for kind in KINDS]
    subprocess.run(
        [sys.executable, "-c", code, *arguments, *folders], capture_output=True, text=True, cwd=projects, check=False
    )
    results: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for case in ElementTree.parse(report).iter("testcase"):
        kind = case.attrib["classname"].split(".")[0]
        results[kind].append(not any(child.tag in ("failure", "error", "skipped") for child in case))
    return results


def run(*arguments: object) -> int:
    """Return the exit code of `bwlab` with these arguments."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_there_is_a_project_for_every_kind() -> None:
    assert tuple(own_kinds()) == KINDS
    assert re.split(r", | or ", KIND_NAMES) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_is_listed_and_keeps_its_contract(
    kind: str, installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plugins", "--json") == 0
    record = {row["name"]: row for row in json.loads(capsys.readouterr().out)}[name_of(kind)]
    assert (record["state"], record["kind"], record["distribution"]) == ("loaded", [kind], f"bwlab-{name_of(kind)}")
    entry = name_of(kind).replace("-", "_") if kind in ("metric", "conflict", "scorer") else name_of(kind)
    assert record["gives"] == [f"bwlab {entry}" if kind == "command" else entry]
    assert run("plugins", "check", name_of(kind)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in shown[:-1])
    assert not any("left out" in line for line in shown) or kind == "adapter"
    assert shown[-1] == f"{own_kinds()[kind].called} {entry}: {len(shown) - 1} of {len(shown) - 1} checks hold"
    assert len(shown) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_project_passes_its_own_tests(kind: str, own_tests: dict[str, list[bool]]) -> None:
    assert len(own_tests[kind]) >= 8
    assert all(own_tests[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_is_clean(kind: str, projects: Path) -> None:
    """No place is left unfilled, and ruff with the project's own settings has nothing to say."""
    files = [path for path in (projects / kind).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert len(files) >= 5
    assert all("{{" not in path.read_text(encoding="utf-8") and "{{" not in str(path) for path in files)
    settings = tomllib.loads((projects / kind / "pyproject.toml").read_text(encoding="utf-8"))
    assert list(settings["project"]["entry-points"]["bwlab"]) == [name_of(kind)]
    for check in (["check"], ["check", "--select", "E,F,W,I,UP,B,RUF"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--no-cache", "."]
        done = subprocess.run(command, capture_output=True, text=True, cwd=projects / kind)
        assert done.returncode == 0, done.stdout


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Return the files of two LoRAs on the embedded base."""
    files = [tmp_path / f"{name}.safetensors" for name in ("a", "b")]
    for seed, file in enumerate(files):
        typed_files.save("lora", file, seed=seed)
    return files


def test_the_metric_is_a_column(installed: Path, pair: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("analyze", "norms", pair[0], "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert all(1.0 <= block["try_metric"]["value"] <= block["try_metric"]["of_rank"] for block in report["blocks"])
    assert report["total"]["try_metric"]["of_rank"] >= report["total"]["try_metric"]["value"]


def test_the_conflict_measure_is_a_column(
    installed: Path, pair: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("analyze", "conflict", pair[0], pair[0], "--json") == 0
    same = json.loads(capsys.readouterr().out)["total"]["try_conflict"]
    assert run("analyze", "conflict", *pair, "--json") == 0
    other = json.loads(capsys.readouterr().out)["total"]["try_conflict"]
    assert same["value"] == pytest.approx(1.0)
    assert other["value"] < 0.7
    assert other["random"] == pytest.approx(same["random"])


def test_the_scorer_is_a_column(
    installed: Path, pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("identity", "style"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64), "red").save(tmp_path / name / "one.png")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("noto, fox, white background\n", encoding="utf-8")
    images = ("--id-images", tmp_path / "identity", "--style-images", tmp_path / "style", "--prompts", prompts)
    adapters = ("--adapter", pair[0], "--adapter", pair[1], "--no-blocks", "--seeds", 2, "--steps", 2)
    assert run("analyze", "fidelity", *adapters, *images, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["errors"] == []
    scores = [condition["scores"]["try_scorer"]["mean"] for condition in report["conditions"]]
    assert all(0.0 <= score <= 1.0 for score in scores)


def test_the_command_is_there(installed: Path, pair: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "try-command" in capsys.readouterr().out
    (pair[0].parent / "notes.safetensors").write_text("no adapter", encoding="utf-8")
    assert run("try-command", pair[0].parent, "--json") == 0
    assert [entry["file"] for entry in json.loads(capsys.readouterr().out)] == ["a.safetensors", "b.safetensors"]
    assert run("try-command", pair[0].parent) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["file", "dialect", "model", "modules", "rank", "MB"]


def test_the_tagger_writes_captions(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16), "#d02020").save(tmp_path / "images" / "one.png")
    assert run("tag", tmp_path / "images", "--tagger", "try-tagger", "--set", "share=0.3") == 0
    assert (tmp_path / "images" / "one.txt").read_text(encoding="utf-8").strip() == "red"


def test_the_format_converts_both_ways(
    installed: Path, pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, back = tmp_path / "own.safetensors", tmp_path / "back.safetensors"
    assert run("convert", pair[0], own, "--to", "try-format") == 0
    assert all(":" in key for key in load_file(own))
    capsys.readouterr()
    assert run("inspect", own, "--json") == 0
    assert "try-format" in capsys.readouterr().out
    assert run("convert", own, back, "--to", "kohya") == 0
    before, after = load_file(pair[0]), load_file(back)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_the_scheme_names_blocks(installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "transformer").mkdir()
    config = {"_class_name": "PixArtTransformer2DModel", "num_layers": 6}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtSigmaPipeline"}', encoding="utf-8")
    assert run("blocks", tmp_path, "--json") == 0
    assert "block5" in capsys.readouterr().out


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    """Return a folder of two captioned images."""
    folder = tmp_path / "two"
    folder.mkdir()
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 40, 210))):
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} square\n", encoding="utf-8")
    return folder


def train(out: Path, *arguments: object) -> Path:
    """Train two steps and return the adapter."""
    given = ("--out", out, "--steps", 2, "--batch-size", 2, "--set", "preview.every=0", "--set", "preview.steps=1")
    assert run("train", *given, *arguments) == 0
    return out / "adapter.safetensors"


def test_the_adapter_type_trains(installed: Path, tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    given = ("--base", tiny_pipeline, "--data", two_images, "--blocks", "all=2")
    assert any("lora_up" in key for key in load_file(train(tmp_path / "run", *given, "--adapter", "try-adapter")))


def test_the_optimiser_trains(installed: Path, tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    given = ("--base", tiny_pipeline, "--data", two_images, "--blocks", "all=2", "--lr", 0.125)
    tensors = load_file(
        train(tmp_path / "run", *given, "--optimizer", "try-optimizer", "--set", "training.weight_decay=0")
    )
    ups = np.concatenate([value.ravel() for key, value in tensors.items() if "lora_up" in key])
    assert set(np.unique(np.abs(ups))) <= {0.0, 0.125, 0.25}  # two steps of one size from zero
    assert ups.any()


def test_the_fusion_acts(installed: Path, pair: list[Path], tmp_path: Path) -> None:
    adapters = ("--adapter", pair[0], "--adapter", pair[1], "--prompt", "noto, fox", "--steps", 2)
    images = []
    for fusion in ("sum", "try-fusion"):
        assert run("generate", *adapters, "--fusion", fusion, "--out", tmp_path / fusion) == 0
        with Image.open(next((tmp_path / fusion).glob("*.png"))) as image:
            images.append(np.asarray(image).copy())
    assert not np.array_equal(images[0], images[1])


def test_the_family_trains_and_generates(installed: Path, two_images: Path, tmp_path: Path) -> None:
    family = {family.name: family for family in build_manager().model_families()}["try-family"]
    assert family.write_example(tmp_path / "base")
    adapter = train(tmp_path / "run", "--base", tmp_path / "base", "--data", two_images, "--blocks", "block1=2")
    assert {key.split(".")[1:3] == ["blocks", "1"] for key in load_file(adapter)} == {True}
    out = tmp_path / "images"
    given = ("--prompt", "a red square", "--steps", 2, "--adapter", adapter, "--out", out)
    assert run("generate", "--base", tmp_path / "base", *given) == 0
    assert list(out.glob("*.png"))


def test_an_unknown_kind_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plugins", "new", "mine", "--kind", "metrics", "--out", tmp_path / "mine") == 2
    error = capsys.readouterr().err
    assert "a plugin of the kind 'metrics': there is no such kind. Did you mean metric? Known kinds: adapter, " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "mine").exists()


def test_a_kind_without_a_project_is_named(tmp_path: Path) -> None:
    kind = PluginKind("palette", "palette", "my_register_palettes", lambda given, options: [])
    with pytest.raises(BwlabError, match="its plugin has no project to start from"):
        write_project("mine", tmp_path / "mine", kind)
    assert not (tmp_path / "mine").exists()
