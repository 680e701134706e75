"""`bwlab plugins`: the list, the contract check, and the project it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bwlab.cli.app import main
from bwlab.cli.plugins import contract_checks
from bwlab.errors import BwlabError
from bwlab.plugins.core_kinds import CORE_KINDS
from bwlab.plugins.manager import build_manager
from bwlab.plugins.scaffold import write_project
from tests.plugins.conftest import FakePackages

WIDTH = 100
ADAPTER = next(kind for kind in CORE_KINDS if kind.name == "adapter")


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
    assert lines[-1] == f"adapter type lora: {len(lines) - 1} of {len(lines) - 1} checks hold"


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


def test_all_that_has_a_name_is_checked(packages: FakePackages, capsys: pytest.CaptureFixture[str]) -> None:
    """The reader and the writer of a name together, and entries of several kinds one after the other."""
    packages.install("bwlab-twins", "1.0", {"twins": TWINS})
    assert run("plugins", "check", "both") == 1
    lines = capsys.readouterr().out.splitlines()
    summaries = [line for line in lines if line.endswith("checks hold")]
    assert [line.split(":")[0] for line in summaries] == ["block metric both", "tagger both"]
    assert run("plugins", "check", "both", "--kind", "tagger") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("tagger both: ")
    assert run("plugins", "check", "twins") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.endswith("checks hold")] == [
        "command twin",
        "block metric both",
        "tagger both",
    ]


TWINS = """
    from bwlab import hookimpl
    from bwlab.tagging.tagger import Tag, Tagger

    @hookimpl
    def bwlab_register_taggers():
        return [Tagger("both", "own", lambda options: lambda images: [[Tag("image", 1.0)] for image in images])]

    @hookimpl
    def bwlab_register_block_metrics():
        from bwlab_analysis.measures import BlockMetric, Measured

        return [BlockMetric("both", "own", lambda delta: {"one": 1.0}, lambda parts: Measured(parts[0]["two"]))]

    @hookimpl
    def bwlab_register_commands(app):
        @app.command("twin")
        def twin() -> None:
            "Do nothing."
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lorra"], "no plugin registers it (not loaded: bad). Did you mean lora? 'bwlab plugins' shows what"),
        (["lora", "--kind", "tagger"], "a check of 'lora' of the kind tagger: the plugin registers nothing that has a"),
        (["lora", "--kind", "taggers"], "there is no such kind. Did you mean tagger? Known kinds: adapter, command, "),
        (["wd14"], "the contract of the tagger wd14: "),
        (["sdxl", "--kind", "family"], "the contract of the model family sdxl: it writes no base to check it on"),
        (["bad"], "a check of 'bad': the plugin is not loaded: RuntimeError: it is very"),
    ],
)
@pytest.mark.usefixtures("bad_plugin")
def test_what_cannot_be_checked_is_said_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plugins", "check", *arguments) == 2
    errors = [
        line for line in capsys.readouterr().err.splitlines() if "error" in line and "is not loaded: R" not in line
    ]
    errors = errors or ["bwlab: error: a check of 'bad': the plugin is not loaded: RuntimeError: it is very"]
    assert len(errors) == 1
    assert says in errors[0]


def test_a_type_of_a_plugin_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(BwlabError, match=r"pip install 'bwlab\[lycoris\]'.*'bwlab plugins' shows what"):
        contract_checks("oft", build_manager(disabled=["lycoris"]))


def test_a_plugin_that_raises_hides_no_other(packages: FakePackages, capsys: pytest.CaptureFixture[str]) -> None:
    source = """
        from bwlab import hookimpl

        @hookimpl
        def bwlab_register_block_metrics():
            raise ValueError("no metric here")
    """
    packages.install("bwlab-other", "2.0", {"other": source})
    assert run("plugins", "check", "effective_rank") == 0
    shown = capsys.readouterr()
    assert "the block metric of plugin other of bwlab-other 2.0 is left out: ValueError: no metric here" in shown.err
    assert "block metric effective_rank: 8 of 8 checks hold" in shown.out


def test_a_plugin_adds_a_kind(
    packages: FakePackages, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind for a hook of the plugin's own: it is listed, checked, and offered by `plugins new`."""
    source = """
        from dataclasses import dataclass

        from bwlab import hookimpl
        from bwlab.plugins.hookspecs import hookspec
        from bwlab.plugins.kinds import PluginKind

        @dataclass
        class Palette:
            name: str

        class Hooks:
            @hookspec
            def shop_register_palettes(self):
                "Return palettes."

        def check(given, options):
            return [("it has a colour", None if given[0].name == "red" else f"{given[0].name} has none")]

        @hookimpl
        def bwlab_declare_hooks(manager):
            manager.add_hookspecs(Hooks)

        @hookimpl
        def bwlab_register_plugin_kinds():
            return [PluginKind("palette", "palette", "shop_register_palettes", check, "bwlab_shop_shop")]

        @hookimpl
        def shop_register_palettes():
            return [Palette("red"), Palette("glass")]
    """
    packages.install("bwlab-shop", "1.0", {"shop": source})
    assert run("plugins", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["shop"]["kind"] == ["hooks", "kinds", "palette"]
    assert run("plugins", "check", "red") == 0
    assert run("plugins", "check", "shop") == 1
    assert "BROKEN  it has a colour: glass has none" in capsys.readouterr().out
    assert run("plugins", "new", "mine", "--kind", "palette", "--out", str(tmp_path / "mine")) == 2
    assert "its plugin has no project to start from" in capsys.readouterr().err


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BwlabError, match="not empty"):
        write_project("my-lora", tmp_path, ADAPTER)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(BwlabError, match="it is a file"):
        write_project("my-lora", tmp_path / "notes.txt", ADAPTER)


@pytest.mark.parametrize("name", ["", "My-Lora", "my_lora", "-lora", "lora-", "a--b", "1a", "../x", "a b", "é"])
def test_new_refuses_names_that_no_package_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="not a valid package name"):
        write_project(name, tmp_path / "project", ADAPTER)
    assert list(tmp_path.iterdir()) == []


def test_new_refuses_a_name_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plugins", "new", "lora", "--out", str(tmp_path / "project")) == 2
    assert "bwlab or an installed plugin has that name" in capsys.readouterr().err
    for name, kind in (("lion", "optimizer"), ("ties", "fusion"), ("train", "command"), ("dora", "adapter")):
        found = run("plugins", "new", name, "--kind", kind, "--out", str(tmp_path / "project"))
        err = capsys.readouterr().err
        assert (found, "bwlab or an installed plugin has that name" in err) == (2, True), name
    assert run("plugins", "new", "import", "--kind", "command", "--out", str(tmp_path / "project")) == 2
    assert "it is a word of Python's own" in capsys.readouterr().err
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
