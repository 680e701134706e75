"""The frame of the command line: errors, exit codes, global options, commands of plugins."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.main import get_group

from bwlab import __version__, hookimpl
from bwlab.cli.app import COMMANDS, GROUPS, build_app, build_group, exit_on_error, main
from bwlab.errors import BwlabError
from bwlab.plugins.manager import build_manager
from tests.plugins.conftest import FakePackages

ADAPTER = Path(__file__).parents[1] / "golden" / "files" / "kohya-lora.safetensors"

COMMAND = """
    from bwlab import hookimpl
    from bwlab.errors import BwlabError

    @hookimpl
    def bwlab_register_commands(app):
        @app.command("{name}")
        def command() -> None:
            "Made up."
            {body}
"""


def exit_code(*arguments: str) -> int:
    """Return the exit code of `bwlab` with these arguments."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out.startswith(f"bwlab {__version__}\nPython 3.")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--no-such-option"], "bwlab: no such option: --no-such-option"),
        (["tran"], "bwlab: no such command 'tran'"),
        (["train", "--block", "x"], "bwlab train: no such option: --block"),
        (["train", "a", "b"], "bwlab train: got unexpected extra argument"),
        (["train", "--steps"], "bwlab"),
        (["plugins", "check"], "bwlab plugins check: missing argument"),
        (["base", "measure", "--cfg", "x"], "bwlab base measure: --cfg x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_is_one_line_and_exits_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"bwlab: error: {line}")
    assert captured.err.endswith(" --help\n")


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code() == 2
    captured = capsys.readouterr()
    assert "Usage: bwlab" in captured.out + captured.err
    assert "bwlab: error" not in captured.err


def test_a_user_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("plugins", "check", "rola") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("bwlab: error: a check of 'rola': ")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--debug", "plugins", "check", "rola") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("bwlab: error: ")


def raising(error: BaseException) -> Callable[[], None]:
    """Return a function that raises `error`."""

    def call() -> None:
        raise error

    return call


def test_ctrl_c_exits_130() -> None:
    with pytest.raises(SystemExit) as end:
        exit_on_error(raising(KeyboardInterrupt()), lambda: False)
    assert end.value.code == 130


def test_ctrl_c_in_a_command_exits_130(packages: FakePackages) -> None:
    packages.install("bwlab-glow", "1.2", {"glow": COMMAND.format(name="glow", body="raise KeyboardInterrupt")})
    assert exit_code("glow") == 130


def test_many_lines_become_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        exit_on_error(raising(BwlabError("asked", "two\nlines", "Fix it")), lambda: False)
    assert end.value.code == 2
    assert capsys.readouterr().err == "bwlab: error: asked: two lines. Fix it\n"


def test_what_the_file_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    refused = PermissionError(errno.EACCES, "Permission denied", "pictures/secret")
    with pytest.raises(SystemExit) as stopped:
        exit_on_error(raising(refused), lambda: False)
    assert stopped.value.code == 2
    told = "bwlab: error: pictures/secret: Permission denied. Check the path, its permissions and the disk\n"
    assert capsys.readouterr().err == told
    with pytest.raises(FileNotFoundError):  # which is ours to check
        exit_on_error(raising(FileNotFoundError(errno.ENOENT, "No such file", "x")), lambda: False)


@pytest.mark.parametrize("body", ["torch.empty(2**60)", "bytearray(2**60)"])
def test_too_little_memory_is_one_line_whosever_command_it_is(
    packages: FakePackages, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    packages.install("bwlab-glow", "1.2", {"glow": COMMAND.format(name="glow", body=f"import torch; {body}")})
    assert exit_code("glow") == 2
    told = capsys.readouterr().err
    assert told.startswith("bwlab: error: bwlab glow: this machine is out of memory")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "place", "advice"),
    [
        (("generate", "--prompt", "fox"), "bwlab.generation.run.load_base", "smaller --batch-size"),
        (("train", "--data", ".", "--out", "run"), "bwlab.training.prepare.load_base", "--quantize"),
        (
            ("analyze", "activations", str(ADAPTER), "--prompts", "fox.txt"),
            "bwlab_analysis.activations.loaded_base.load_base",
            "--device",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_full_gpu_is_told_with_what_takes_less_memory(
    arguments: tuple[str, ...],
    place: str,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    import torch

    def full(*given: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8")

    Image.new("RGB", (64, 64)).save(tmp_path / "fox.png")
    (tmp_path / "fox.txt").write_text("fox")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, full)
    assert exit_code(*arguments, "--base", "emoji") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"bwlab {arguments[0]}: the GPU is out of memory (it could not hold another 20.00 MiB). " in told
    assert advice in told


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_on_error(raising(ZeroDivisionError()), lambda: False)


def test_a_broken_plugin_costs_one_warning_line(packages: FakePackages, capsys: pytest.CaptureFixture[str]) -> None:
    packages.install("bwlab-bad", "0.3", {"bad": "raise RuntimeError('two\\nlines')"})
    assert exit_code("--help") == 0
    captured = capsys.readouterr()
    assert captured.err == ("bwlab: warning: plugin bad of bwlab-bad 0.3 is not loaded: RuntimeError: two lines\n")
    assert "plugins" in captured.out


def test_debug_shows_why_a_plugin_failed(packages: FakePackages, capsys: pytest.CaptureFixture[str]) -> None:
    packages.install("bwlab-bad", "0.3", {"bad": "raise RuntimeError('here')"})
    assert exit_code("--debug", "plugins", "list") == 0
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "bwlab_bad_bad.py" in error


def test_a_plugin_adds_a_command(packages: FakePackages, capsys: pytest.CaptureFixture[str]) -> None:
    packages.install("bwlab-glow", "1.2", {"glow": COMMAND.format(name="glow", body="print('it glows')")})
    assert exit_code("glow") == 0
    assert capsys.readouterr().out == "it glows\n"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (COMMAND.format(name="plugins", body="pass"), "there is already a command plugins of bwlab"),
        (COMMAND.format(name="glow", body="pass").replace("() ->", "(x: 'NoSuchType') ->"), "NoSuchType"),
        (COMMAND.format(name="glow", body="pass") + "\n        raise SystemExit\n", "SystemExit"),
    ],
    ids=["taken name", "unreadable signature", "raises half-way"],
)
def test_broken_commands_are_left_out(
    packages: FakePackages, capsys: pytest.CaptureFixture[str], source: str, error: str
) -> None:
    packages.install("bwlab-glow", "1.2", {"glow": source})
    assert exit_code("--help") == 0
    captured = capsys.readouterr()
    which = "command plugins" if error.startswith("there is") else "commands"
    assert captured.err.startswith(f"bwlab: warning: {which} of plugin glow of bwlab-glow 1.2 ")
    assert "left out: " in captured.err
    assert error in captured.err
    assert captured.err.count("\n") == 1
    assert "plugins" in captured.out
    assert "Made up" not in captured.out


def test_two_plugins_with_one_command_are_told_apart() -> None:
    class First:
        """Adds `glow`."""

        @hookimpl
        def bwlab_register_commands(self, app: typer.Typer) -> None:
            """Add it."""
            app.command("glow")(lambda: None)

    class Second(First):
        """Adds `glow` too."""

    _, failures = build_app(build_manager([First(), Second()], installed=False))
    assert len(failures) == 1
    assert "glow" in str(failures[0][1])


@pytest.mark.parametrize("asked", ["train", "data", "shine", "shien", None])
def test_the_command_that_is_asked_for_is_there_and_so_are_all_where_it_is_unknown(asked: str | None) -> None:
    class Shining:
        """Adds `shine`."""

        @hookimpl
        def bwlab_register_commands(self, app: typer.Typer) -> None:
            """Add it."""
            app.command("shine")(lambda: None)

    manager = build_manager([Shining()], installed=False)
    names = {"shine", *COMMANDS, *GROUPS}
    wanted = {"shine", asked} if asked in names else names
    assert set(build_group(manager, asked)[0].commands) == wanted
    assert set(get_group(build_app(manager, asked)[0]).commands) == wanted


def test_a_plugin_cannot_take_the_name_of_a_command_that_is_not_asked_for() -> None:
    class Greedy:
        """Adds `train`."""

        @hookimpl
        def bwlab_register_commands(self, app: typer.Typer) -> None:
            """Add it."""
            app.command("train")(lambda: None)

    _, failures = build_app(build_manager([Greedy()], installed=False), "blocks")
    assert str(failures[0][1]) == "there is already a command train of bwlab"


def test_other_commands_of_a_plugin_stay(packages: FakePackages, capsys: pytest.CaptureFixture[str]) -> None:
    body = "pass\n\n        @app.command(name='boomer')\n        def boomer() -> None:\n            print('boom')"
    packages.install("bwlab-glow", "1.2", {"glow": COMMAND.format(name="train", body=body)})
    assert exit_code("boomer") == 0
    captured = capsys.readouterr()
    assert captured.out == "boom\n"
    assert (
        "command train of plugin glow of bwlab-glow 1.2 is left out: there is already a command train" in captured.err
    )


def test_a_command_of_a_plugin_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bwlab.cli.app.build_manager", lambda **_: build_manager(disabled=["emoji"]))
    assert exit_code("base", "measure") == 2
    error = capsys.readouterr().err
    assert error.startswith("bwlab: error: bwlab base: the plugin with this command is not installed")
    assert "pip install 'bwlab[emoji]'" in error
