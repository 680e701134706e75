"""A plugin that takes a name of bwlab or of another plugin loses that entry alone, and the first owner still works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bwlab.cli.app import main
from tests.plugins.conftest import FakePackages

Run = Callable[..., tuple[str, str]]

HEAD = """
    from bwlab import hookimpl
    from bwlab.adapters.types import AdapterType
    from bwlab.blocks.scheme import SchemeFinder
    from bwlab.formats.types import FormatReader, FormatWriter
    from bwlab.fusion.types import FusionType
    from bwlab.tagging.tagger import Tagger
    from bwlab_analysis.measures import BlockMetric, ConflictMeasure, FidelityScorer, Measured

    def boom(*arguments):
        raise RuntimeError("the plugin's entry was used")

"""
ADAPTER = 'AdapterType("{name}", "x", ("leaf",), False, boom, lambda path, kind: True)'
OPTIMIZER = 'OptimizerType("{name}", "x", boom)'
# Hook -> the entry of a built-in name, an entry of a free name, and what the warning calls it.
ENTRIES = {
    "bwlab_register_adapters": ("lora", ADAPTER, "adapter type 'lora'"),
    "bwlab_register_block_schemes": ("sd", 'SchemeFinder("{name}", "x", lambda config: None)', "block scheme 'sd'"),
    "bwlab_register_formats": ("kohya", 'FormatWriter("{name}", "x", boom, boom)', "writer of the format 'kohya'"),
    "bwlab_register_fusions": ("switch", 'FusionType("{name}", "x", boom)', "fusion method 'switch'"),
    "bwlab_register_taggers": ("clip", 'Tagger("{name}", "x", boom)', "tagger 'clip'"),
    "bwlab_register_block_metrics": (
        "top1_share",
        'BlockMetric("{name}", "x", lambda delta: {{"one": 1.0}}, lambda parts: Measured(3.0))',
        "measure 'top1_share'",
    ),
    "bwlab_register_conflict_measures": (
        "cosine",
        'ConflictMeasure("{name}", "x", lambda pair: {{"one": 1.0}}, lambda parts: Measured(3.0))',
        "measure 'cosine'",
    ),
}


def hook(name: str, entry: str, *names: str) -> str:
    """Return the source of a hook that registers an entry for each name."""
    entries = ", ".join(entry.format(name=own) for own in names)
    return f"    @hookimpl\n    def {name}():\n        return [{entries}]\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command that has to succeed, and returns its output and its errors."""

    def act(*arguments: object) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert end.value.code == 0, shown.err
        return shown.out, shown.err

    return act


def saved(tmp_path: Path) -> Path:
    """Return the file of a small LoRA on the embedded base."""
    from tests.plugins import typed_files

    typed_files.save("lora", tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize("name", ENTRIES)
def test_a_built_in_name_stays_built_in(packages: FakePackages, run: Run, tmp_path: Path, name: str) -> None:
    taken, entry, called = ENTRIES[name]
    packages.install("a-rival", "0.1", {"a-rival": HEAD + hook(name, entry, taken, "rival_own")})
    file, out = saved(tmp_path), tmp_path / "out.safetensors"
    commands: dict[str, list[object]] = {
        "bwlab_register_adapters": ["plugins", "check", "lora"],
        "bwlab_register_formats": ["convert", file, out],
        "bwlab_register_fusions": ["plugins", "check", "switch"],
        "bwlab_register_block_metrics": ["analyze", "norms", file, "--json"],
        "bwlab_register_conflict_measures": ["analyze", "conflict", file, file, "--json"],
    }
    shown, errors = run(*commands.get(name, ["blocks"]))
    warned = [line for line in errors.splitlines() if "is left out" in line]
    assert len(warned) == 1
    assert warned[0].startswith(f"bwlab: warning: {called} of plugin a-rival of a-rival 0.1: the name is taken by ")
    assert "bwlab 0.1.0" in warned[0]
    if name == "bwlab_register_formats":
        assert out.is_file()
    if "measure" in called:
        total = json.loads(shown)["total"]
        assert total["rival_own"]["value"] == 3.0
        assert total[taken]["value"] != 3.0
    listed = {row["name"]: row for row in json.loads(run("plugins", "--json")[0])}
    assert "rival_own" in listed["a-rival"]["gives"]
    assert listed["a-rival"]["state"] == "loaded"


def test_a_finder_that_raises_is_left_out(packages: FakePackages, run: Run) -> None:
    finder = 'SchemeFinder("{name}", "x", boom)'
    packages.install("a-rival", "0.1", {"a-rival": HEAD + hook("bwlab_register_block_schemes", finder, "rival_own")})
    shown, errors = run("blocks", "emoji")
    assert "in1" in shown
    message = "block scheme rival_own is left out: its finder raised RuntimeError: the plugin's entry was used"
    assert errors == f"bwlab: warning: {message}\n"


def test_an_optimiser(packages: FakePackages, run: Run) -> None:
    source = "    from bwlab import hookimpl\n    from bwlab.optimizers.types import OptimizerType\n"
    source += "    from bwlab.optimizers.builtin import OPTIMIZERS\n    from dataclasses import replace\n"
    source += "    @hookimpl\n    def bwlab_register_optimizers():\n"
    source += "        return [OPTIMIZERS[0], replace(OPTIMIZERS[0], name='rival_own')]\n"
    packages.install("a-rival", "0.1", {"a-rival": source})
    _, errors = run("blocks")
    assert errors.startswith(
        "bwlab: warning: optimiser 'adamw' of plugin a-rival of a-rival 0.1: the name is taken by "
    )
    assert errors.count("\n") == 1
    listed = {row["name"]: row for row in json.loads(run("plugins", "--json")[0])}
    assert listed["a-rival"]["gives"] == ["rival_own"]


def test_a_reader(packages: FakePackages, run: Run, tmp_path: Path) -> None:
    reader = 'FormatReader("{name}", "x", lambda keys, metadata: True, boom)'
    packages.install("a-rival", "0.1", {"a-rival": HEAD + hook("bwlab_register_formats", reader, "kohya")})
    shown, errors = run("inspect", saved(tmp_path), "--json")
    assert json.loads(shown)["files"][0]["dialect"] == "kohya"
    assert "reader of the format 'kohya' of plugin a-rival of a-rival 0.1" in errors


def test_a_scorer(packages: FakePackages, capsys: pytest.CaptureFixture[str]) -> None:
    from bwlab.plugins.manager import build_manager
    from bwlab_analysis.fidelity.clip import built_in_scorers, clip_of
    from bwlab_analysis.installed import fidelity_scorers

    scorer = 'FidelityScorer("{name}", "style", "x", boom)'
    built_in = built_in_scorers(clip_of("emoji", None))
    names = [scorer.name for scorer in built_in]
    source = HEAD + hook("bwlab_register_fidelity_scorers", scorer, names[0], "rival_own")
    packages.install("a-rival", "0.1", {"a-rival": source})
    warnings: list[str] = []
    scorers = fidelity_scorers(build_manager(), warnings.append, built_in)
    assert [scorer.name for scorer in scorers] == [*names, "rival_own"]
    assert scorers[0] is built_in[0]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"measure {names[0]!r} of plugin a-rival of a-rival 0.1: the name is taken by bwlab")


@pytest.mark.parametrize("taken", ["blocks", "plugins", "analyze"])
def test_a_command(packages: FakePackages, run: Run, taken: str) -> None:
    source = f"""
        from bwlab import hookimpl

        @hookimpl
        def bwlab_register_commands(app):
            @app.command("{taken}")
            def first() -> None:
                print("rival")

            @app.command("rival-own")
            def second() -> None:
                print("own")
    """
    packages.install("a-rival", "0.1", {"a-rival": source})
    shown, errors = run(taken, "--help")
    assert "rival" not in shown
    message = (
        f"command {taken} of plugin a-rival of a-rival 0.1 is left out: there is already a command {taken} of bwlab"
    )
    assert errors == f"bwlab: warning: {message}\n"
    assert run("rival-own")[0] == "own\n"


@pytest.mark.parametrize("taken", ["lora", "analysis", "core"])
def test_the_entry_point_of_a_built_in_plugin(packages: FakePackages, run: Run, tmp_path: Path, taken: str) -> None:
    from bwlab.plugins.manager import build_manager

    own = [record.name for record in build_manager().records]
    if taken not in own:
        taken = next(name for name in own if name not in ("lora", "analysis", "emoji"))
    packages.install("a-rival", "0.1", {taken: HEAD + hook("bwlab_register_adapters", ADAPTER, "rival_own")})
    report, errors = run("analyze", "norms", saved(tmp_path), "--json")
    assert json.loads(report)["total"]["norm"] > 0
    warned = [line for line in errors.splitlines() if line.startswith("bwlab: warning: ")]
    assert len(warned) == 1
    assert (
        f"plugin {taken} of a-rival 0.1 is not loaded: the name '{taken}' is taken by the plugin of bwlab" in warned[0]
    )
