"""Recognises which trainer a command or a file is for, and translates it."""

from __future__ import annotations

from pathlib import Path

from bwlab.errors import BwlabError, first_line
from bwlab.files import is_file
from bwlab.foreign.command_line import looks_like_command, parse_command
from bwlab.foreign.kohya import from_command, from_config
from bwlab.foreign.translator import Translation
from bwlab.text import parse_json, parse_toml

LARGEST = 4_000_000  # bytes of a config; those of other trainers have thousands
LONGEST = 50_000  # characters of a command or a script; they are read one by one
YAML = (".yaml", ".yml")
WANTED = "Give a command of kohya's trainer, its TOML, a script with it, a JSON of OneTrainer or a YAML of ai-toolkit"


def translate(text: str) -> Translation:
    """Return the settings that a command or a file of another trainer means.

    Args:
        text: a command line of kohya's sd-scripts, or the path of a file: a script that holds such a command, a
            settings file of sd-scripts (TOML), or a config of OneTrainer (JSON) or of ai-toolkit (YAML).

    Raises:
        BwlabError: it is none of these, or has an option or a value that its own trainer would refuse.

    """
    path = Path(text)
    if looks_like_command(text) and not is_file(path):
        return _from_script(text, "--from-kohya")
    contents = _read(path)
    suffix = path.suffix.lower()
    if suffix == ".toml":
        _require_kohya(path, contents)
        return from_config(path)
    if suffix == ".json":
        from bwlab.foreign.onetrainer import from_json

        return from_json(path, _json(path, contents))
    if suffix in YAML:
        from bwlab.foreign.ai_toolkit import from_yaml

        return from_yaml(path, contents)
    return _from_script(contents, f"--from {path}")


def _from_script(text: str, asked: str) -> Translation:
    if len(text) > LONGEST:
        found = f"{len(text)} characters, more than the {LONGEST} of the longest command"
        raise BwlabError(asked, found, "Give one command")
    return from_command(parse_command(text))


def _read(path: Path) -> str:
    asked = f"--from {path}"
    try:
        if path.stat().st_size > LARGEST:
            raise BwlabError(asked, "it is too large for a config", WANTED)
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise BwlabError(asked, "no such file, and no command of kohya's trainer", WANTED) from None
    except (OSError, ValueError) as error:
        raise BwlabError(asked, first_line(error), WANTED) from None


def _json(path: Path, contents: str) -> dict[str, object]:
    try:
        config = parse_json(contents)
    except ValueError as error:
        raise BwlabError(f"--from {path}", f"it is no JSON ({first_line(error)})", WANTED) from None
    if not isinstance(config, dict):
        raise BwlabError(f"--from {path}", "it is no JSON object", WANTED)
    return config


def _require_kohya(path: Path, contents: str) -> None:
    """Raise BwlabError for the other TOML files that a user may have: dataset files and settings of bwlab."""
    try:
        tables = parse_toml(contents)
    except ValueError as error:
        raise BwlabError(f"--from {path}", f"it is no TOML ({first_line(error)})", WANTED) from None
    if "datasets" in tables:
        raise BwlabError(f"--from {path}", "it is a dataset file", "Give it with --dataset")
    if isinstance(tables.get("adapter"), dict) or isinstance(tables.get("preview"), dict):
        raise BwlabError(f"--from {path}", "it holds settings of bwlab", "Give it without --from: bwlab train FILE")
