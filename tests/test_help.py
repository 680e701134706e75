"""`bwlab --help` is light: it imports nothing heavy; its paragraphs fill the terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bwlab.cli.app import build_group, main
from bwlab.plugins.manager import build_manager

HEAVY = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "skimage",
    "open_clip",
    "numpy",
    "PIL",
    "yaml",
)

REPORT = """
import sys
from bwlab.cli.app import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
print("MODULES", *sorted(name.split(".")[0] for name in sys.modules))
"""


def modules_after(*arguments: str) -> set[str]:
    """Top-level names in `sys.modules` after `bwlab` ran with these arguments."""
    code = REPORT.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["train", "--help"]], ids=" ".join)
def test_no_heavy_import(arguments: list[str]) -> None:
    modules = modules_after(*arguments)
    assert "bwlab" in modules
    allowed = {"numpy"} if arguments == ["plugins"] else set()  # which plugins' measures are made with
    assert modules & set(HEAVY) <= allowed


def test_the_list_of_commands_needs_no_models_of_settings() -> None:
    assert "pydantic" not in modules_after("--help")


def test_garbage_is_not_looked_for_in_what_the_command_line_imports() -> None:
    code = (
        "import gc, sys\nfrom bwlab.__main__ import main\nsys.argv = ['bwlab', '--version']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('GARBAGE', gc.isenabled(), gc.get_freeze_count() > 10_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "GARBAGE True True"


def test_the_list_of_commands_is_that_of_the_whole_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for asked in ("--help", None):
        group, _ = build_group(build_manager(), asked)
        group.main(["--help"], prog_name="bwlab", standalone_mode=False)
        shown.append(capsys.readouterr().out)
    assert "train" in shown[0]
    assert shown[0] == shown[1]


def test_paragraphs_of_help_fill_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = lines.index("The metadata is kept and records the conversion. With --rank, the command")
    assert lines[at + 1] == "prints how much of each block's energy is kept."


def test_a_default_that_the_help_states_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    group, _ = build_group(build_manager(), "merge")
    group.main(["merge", "--help"], prog_name="bwlab", standalone_mode=False)
    shown = capsys.readouterr().out
    assert "[default: 40]" in shown
    assert "[default: 0.03]" in shown
