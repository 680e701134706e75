"""`bwlab plugins`: the list, the contract check, and the project it writes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bwlab.cli.app import main
from bwlab.errors import BwlabError
from bwlab.plugins.scaffold import write_project
from tests.plugins.conftest import FakePackages

WIDTH = 100


def run(*arguments: str) -> int:
    """Return the exit code of `bwlab` with these arguments."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


@pytest.fixture
def bad_plugin(packages: FakePackages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return a plugin that fails, and a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    packages.install("bwlab-bad", "0.3", {"bad": "raise RuntimeError('it is ' + 'very ' * 30 + 'broken')"})


@pytest.mark.usefixtures("bad_plugin")
@pytest.mark.parametrize("arguments", [["plugins"], ["plugins", "list"]], ids=" ".join)
def test_the_table_fits_and_says_why(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    rows = [line.split() for line in lines]
    assert ["plugin", "kind", "gives", "distribution", "state"] in rows
    assert ["lora", "adapter", "lora", "bwlab", "0.1.0", "loaded"] in rows
    assert ["bad", "bwlab-bad", "0.3", "failed"] in rows
    assert any(line.startswith("bad of bwlab-bad 0.3: RuntimeError: it is very") for line in lines)


@pytest.mark.parametrize("distribution", ["bwlab-company-style-adapters", "bwlab-" + "a-very-long-name-" * 3])
def test_every_column_is_there_at_80_columns(
    distribution: str, packages: FakePackages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    packages.install(distribution, "1.0.0", {"company_styles": ""})
    assert run("plugins") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert ["plugin", "kind", "gives", "distribution", "state"] in [line.split() for line in lines]
    assert sum(line.rstrip().endswith("loaded") for line in lines) > 4


@pytest.mark.usefixtures("bad_plugin")
@pytest.mark.parametrize("arguments", [["plugins", "--json"], ["plugins", "list", "--json"]], ids=" ".join)
def test_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["lora"] == {
        "name": "lora",
        "kind": ["adapter"],
        "gives": ["lora"],
        "distribution": "bwlab",
        "version": "0.1.0",
        "state": "loaded",
        "error": None,
    }
    assert rows["bad"]["state"] == "failed"
    assert rows["bad"]["error"].startswith("RuntimeError: it is very")


def test_a_clash_of_types_is_in_the_list(packages: FakePackages, capsys: pytest.CaptureFixture[str]) -> None:
    source = """
        from bwlab import hookimpl
        from bwlab.adapters.types import AdapterType

        @hookimpl
        def bwlab_register_adapters():
            return [AdapterType("lora", "made up", ("a",), False, lambda: None, lambda path, kind: True)]
    """
    packages.install("bwlab-other", "2.0", {"other": source})
    assert run("plugins") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "adapter type 'lora' of plugin other of bwlab-other 2.0: the name is taken by plugin lora of bwlab 0.1.0"
        in text
    )


def test_check_a_built_in_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plugins", "check", "lora") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert lines[-1] == f"lora: {len(lines) - 1} of {len(lines) - 1} checks hold"


BROKEN = """
    from bwlab import hookimpl
    from bwlab.adapters.types import AdapterType

    def load():
        from bwlab_lora.layer import LoraLayer

        class Doubled(LoraLayer):
            def delta(self, base_weight=None):
                return 2 * super().delta(base_weight)

        return Doubled

    @hookimpl
    def bwlab_register_adapters():
        leaves = ("lora_down.weight", "lora_up.weight", "alpha")
        return [AdapterType("doubled", "its delta is wrong", leaves, False, load, lambda path, kind: True)]
"""


def test_check_finds_a_wrong_delta(packages: FakePackages, capsys: pytest.CaptureFixture[str]) -> None:
    packages.install("bwlab-doubled", "1.0", {"doubled": BROKEN})
    assert run("plugins", "check", "doubled") == 1
    broken = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BROKEN")]
    assert [line.split(":")[0].split(" (")[0] for line in broken] == [
        "BROKEN  delta is the weight change",
        "BROKEN  file means the delta",
    ]


def test_new_writes_a_project_that_passes_its_tests(packages: FakePackages, tmp_path: Path) -> None:
    """Its own tests run, in a process of their own, and bwlab finds it by its entry point."""
    project = tmp_path / "project"
    assert run("plugins", "new", "my-lora", "--out", str(project)) == 0
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["entry-points"]["bwlab"] == {"my-lora": "bwlab_my_lora.plugin"}
    info = packages.folder / "bwlab_my_lora-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bwlab-my-lora\nVersion: 0.1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[bwlab]\nmy-lora = bwlab_my_lora.plugin\n", encoding="utf-8")
    code = (
        f"import sys; sys.path[:0] = [{str(packages.folder)!r}, {str(project)!r}]\n"
        "from bwlab.plugins.manager import build_manager\n"
        "from bwlab.testing import run_contract\n"
        "checks = run_contract(build_manager().adapter_type('my-lora'))\n"
        "assert checks and not [check for check in checks if check[1]], checks\n"
        f"import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(project)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_the_written_project_is_clean(tmp_path: Path) -> None:
    """No place is left unfilled, and a linter has nothing to say in its author's checkout."""
    written = write_project("my-lora", tmp_path / "project")
    assert all("{{" not in path.read_text(encoding="utf-8") and "{{" not in str(path) for path in written)
    for check in (["check", "--select", "E,F,W,I,UP,B,RUF"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--isolated", "--no-cache", "--line-length", "120", "."]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "project")
        assert done.returncode == 0, done.stdout


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BwlabError, match="not empty"):
        write_project("my-lora", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(BwlabError, match="it is a file"):
        write_project("my-lora", tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["", "My-Lora", "my_lora", "-lora", "lora-", "a--b", "1a", "../x", "a b", "é"])
def test_new_refuses_names_that_no_package_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="not a valid package name"):
        write_project(name, tmp_path / "project")
    assert list(tmp_path.iterdir()) == []


def test_new_refuses_a_name_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plugins", "new", "lora", "--out", str(tmp_path / "project")) == 2
    assert "an installed plugin has that name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_everything_that_a_plugin_gives_is_named(
    packages: FakePackages, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        from bwlab import hookimpl

        @hookimpl
        def bwlab_register_conflict_measures():
            from bwlab_analysis.measures import ConflictMeasure

            return [ConflictMeasure("my_overlap", "made up", lambda pair: {}, lambda parts: None)]

        @hookimpl
        def bwlab_register_commands(app):
            app.command("shine")(lambda: None)

        @hookimpl
        def bwlab_register_fidelity_scorers():
            raise ValueError("no scorer here")
    """
    packages.install("bwlab-other", "2.0", {"other": source})
    monkeypatch.setenv("COLUMNS", "80")
    assert run("plugins") == 0
    text = capsys.readouterr().out
    for name in ("my_overlap", "bwlab shine", "sign_conflict", "effective_rank,", "lora-diffusion-list,"):
        assert name in text
    words = " ".join(text.split())
    assert "other of bwlab-other 2.0: bwlab_register_fidelity_scorers: ValueError: no scorer here" in words
    assert "\u2026" not in text
    assert all("loaded" in line for line in text.splitlines() if " bwlab 0.1.0 " in line)
    assert run("plugins", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows["other"]["gives"]) == ["bwlab shine", "my_overlap"]
    assert "bwlab analyze" in rows["analysis"]["gives"]
