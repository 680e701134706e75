"""The wheels of bwlab and of its separate plugins work outside the clone and install only names of ours."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent


# The plugins that are distributions of their own.
PLUGINS = ("bwlab_emoji", "bwlab_lycoris", "bwlab_ui")

# Runs `python -m bwlab` with unpacked wheels first on the path, as if those plugins and what emoji needs were
# not installed: the environment of the tests has all.
RUNNER = """
import importlib.metadata, runpy, sys

folders, arguments = sys.argv[1].split(";"), sys.argv[2:]
with_plugin = len(folders) > 1
hidden = {"resvg_py", "bwlab_lycoris", "bwlab_ui"} | (set() if with_plugin else {"bwlab_emoji"})


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


every = importlib.metadata.distributions
absent = {name.replace("_", "-") for name in hidden}
importlib.metadata.distributions = lambda **kind: (one for one in every(**kind) if one.name not in absent)
sys.meta_path.insert(0, Hidden())
sys.path[:0] = folders
while arguments:  # several commands, since each process would import torch anew
    at = arguments.index("THEN") if "THEN" in arguments else len(arguments)
    sys.argv = ["bwlab", *arguments[:at]]
    arguments = arguments[at + 1 :]
    try:
        runpy.run_module("bwlab", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code or not arguments:
            raise
"""


# A time that no file of the tree has.
BUILD_TIME = "1700000000"
NOT_SOURCE = (".git", ".venv*", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "build", "dist", "runs")


def build(source: Path, folder: Path, *kinds: str) -> Path:
    """Build the wheel of a source tree, or what the options `--wheel` and `--sdist` say, and return the wheel."""
    options = kinds or ("--wheel",)
    command = [sys.executable, "-m", "build", *options, "--no-isolation", "--outdir", str(folder), str(source)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": BUILD_TIME}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def unpacked(wheel: Path, folder: Path) -> Path:
    """Unpack a wheel into a folder, as an installer does, and return the folder."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel built from this tree; the sdist is beside it."""
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "--wheel", "--sdist")


@pytest.fixture(scope="module")
def plugin_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of the emoji plugin."""
    return built_plugin("bwlab_emoji", tmp_path_factory.mktemp("plugin"))


def built_plugin(name: str, folder: Path) -> Path:
    """Return the wheel of a plugin, built from a copy of its folder alone."""
    ignored = shutil.ignore_patterns("__pycache__", "build", "dist")
    return build(shutil.copytree(ROOT / "plugins" / name, folder / "source", ignore=ignored), folder)


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the unpacked wheel."""
    return unpacked(wheel, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def plugin_site(plugin_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the unpacked wheel of the emoji plugin."""
    return unpacked(plugin_wheel, tmp_path_factory.mktemp("plugin-site"))


def call_outside(sites: Sequence[Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `bwlab` of unpacked wheels in another folder; the emoji plugin is there only as the second of them."""
    command = [sys.executable, "-c", RUNNER, ";".join(map(str, sites)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=sites[0].parent)


def run_outside(site: Path, *arguments: str) -> str:
    """Return the standard output of `bwlab` run in another folder from the unpacked wheel alone."""
    done = call_outside([site], *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_our_names(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {
        "bwlab",
        "bwlab_analysis",
        "bwlab_locon",
        "bwlab_lora",
        "bwlab_ortho",
    }


def test_every_module_and_data_file_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    plugins = (path for path in (ROOT / "plugins").rglob("*.py") if not {*PLUGINS, "bwlab_comfyui"} & set(path.parts))
    sources = [*(ROOT / "bwlab").rglob("*"), *(ROOT / "analysis").rglob("*"), *plugins]
    wanted = {source_name(path) for path in sources if path.is_file() and "__pycache__" not in path.parts}
    assert wanted - shipped == set()


def source_name(path: Path) -> str:
    """Return the name in the wheel of a file of a source root."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[1:] if parts[0] in {"analysis", "plugins"} else parts)


def test_licence_and_notice_are_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name for name in archive.namelist() if ".dist-info/licenses/" in name}
    assert names == {"LICENSE", "NOTICE"}


def test_both_are_the_same_bytes_wherever_and_whenever_they_are_built(wheel: Path, tmp_path: Path) -> None:
    """The files of the copy are new, as in the clone of another person."""
    ignored = shutil.ignore_patterns(*NOT_SOURCE)
    copy = shutil.copytree(ROOT, tmp_path / "elsewhere", ignore=ignored, copy_function=shutil.copy)
    again = build(copy, tmp_path / "built", "--wheel", "--sdist")
    assert digests(again.parent) == digests(wheel.parent)
    assert {name.rpartition(".")[2] for name in digests(wheel.parent)} == {"whl", "gz"}


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the wheels and sdists in a folder, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("bwlab-*")}


def test_the_sdist_has_what_a_reader_looks_for_first(wheel: Path) -> None:
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "NOTICE", "SECURITY.md", "docs/dependencies.md"} <= names
    assert not [name for name in names if name.startswith((".git/", ".venv"))]


def test_it_is_the_unpacked_wheel_that_runs(site: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import bwlab, bwlab_lora; print(bwlab.__file__, bwlab_lora.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(site)], capture_output=True, text=True, cwd=site.parent)
    assert done.stdout.split() == [str(site / "bwlab/__init__.py"), str(site / "bwlab_lora/__init__.py")]


def test_help_outside_the_clone(site: Path) -> None:
    assert "plugins" in run_outside(site, "--help")


def test_blocks_outside_the_clone(site: Path) -> None:
    assert "out3" in run_outside(site, "blocks", "sd14")


def test_plugins_outside_the_clone(site: Path) -> None:
    assert '"state": "failed"' not in run_outside(site, "plugins", "--json")


def test_data_outside_the_clone(site: Path) -> None:
    target = site.parent / f"{site.name}-project"
    assert "pyproject.toml" in run_outside(site, "plugins", "new", "my-lora", "--out", str(target))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_wheel_of_a_plugin_holds_it_alone(plugin: str, plugin_wheel: Path, tmp_path: Path) -> None:
    wheel = plugin_wheel if plugin == "bwlab_emoji" else built_plugin(plugin, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    (metadata,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert {name.split("/")[0] for name in names} == {plugin, metadata}
    folder = ROOT / "plugins" / plugin
    sources = {f"{plugin}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    page = {f"{plugin}/page/{path.name}" for path in (folder / "page").glob("*")}
    assert page <= set(names)
    assert bool(page) is (plugin == "bwlab_ui")


def test_bwlab_base_comes_with_the_emoji_plugin(site: Path, plugin_site: Path) -> None:
    alone = call_outside([site], "base", "--help")
    assert alone.returncode == 2
    assert "bwlab[emoji]" in alone.stderr
    together = call_outside([site, plugin_site], "base", "--help")
    assert together.returncode == 0, together.stderr
    assert "measure-scorer" in together.stdout


def test_a_type_of_a_plugin_that_is_not_installed_is_named(site: Path, tmp_path: Path) -> None:
    done = call_outside([site], "train", "--data", str(tmp_path), "--adapter", "loha", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "pip install 'bwlab[lycoris]'" in done.stderr


def test_the_embedded_base_works_without_the_emoji_plugin(site: Path, tmp_path: Path) -> None:
    """Two steps of training and of sampling, and a comparison of adapters, without `resvg_py`."""
    for index in range(2):
        Image.new("RGB", (64, 64), (90 * index, 100, 150)).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_text("flat, fox, white background")
    settings = ("--set", "training.steps=2", "--set", "training.batch_size=1", "--set", "preview.enabled=false")
    out = ("--out", str(tmp_path / "run"))
    train = ("train", "--data", str(tmp_path), "--blocks", "out3=2", *out, *settings)
    file = str(tmp_path / "run" / "adapter.safetensors")
    images = ("--out", str(tmp_path / "images"), "--steps", "2", "--seed", "3")
    generate = ("generate", "--adapter", file, "--prompt", "flat, fox, white background", *images)
    said = run_outside(site, *train, "THEN", "analyze", "conflict", file, file, "THEN", *generate)
    assert "out3" in said.partition("adapter.safetensors\n")[2]
    (image,) = (tmp_path / "images").rglob("*.png")
    with Image.open(image) as generated:
        assert generated.size == (64, 64)
