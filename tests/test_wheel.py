"""The wheel works outside the clone and puts only names of ours into site-packages."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel unpacked into a folder, as an installer does."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_outside(site: Path, *arguments: str) -> str:
    """Standard output of `python -m bwlab` run in another folder with the unpacked wheel first on the path."""
    code = "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('bwlab', run_name='__main__')"
    command = [sys.executable, "-c", code, str(site), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=site.parent)
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
    sources = [*(ROOT / "bwlab").rglob("*"), *(ROOT / "analysis").rglob("*"), *(ROOT / "plugins").rglob("*.py")]
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
