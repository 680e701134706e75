"""A command that starts one of kohya's scripts, as it is typed or as a script holds it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bwlab.config.foreign.kohya import KOHYA, LAUNCH
from bwlab.config.foreign.rows import Takes
from bwlab.errors import BwlabError

FAMILIES: Mapping[str, str] = {
    "train_network.py": "sd",
    "sdxl_train_network.py": "sdxl",
    "sd3_train_network.py": "sd3",
    "flux_train_network.py": "flux",
}
"""Scripts that are translated, and the kind of base that they train adapters for."""

SCRIPT = re.compile(r"(?:.*[/\\])?(\w+\.py)")
CONTINUED = re.compile(r"[\\^`][ \t]*\r?\n[ \t]*")  # of shells, of cmd.exe and of PowerShell
COMMENT = re.compile(r"(?i)\s*(#|::|rem\b|@?echo\b)")
VARIABLE = re.compile(r"\$\{?\w+\}?|%\w+%|\$env:\w+")
WINDOWS = re.compile(r"\b[A-Za-z]:\\|\.\\")
ASKED = "the command of kohya's trainer"
TAKES = {row.name: row.takes for row in KOHYA}


@dataclass
class Command:
    """A command of kohya's trainer.

    Attributes:
        family: kind of the base: sd, sdxl, sd3 or flux; empty if no script is named.
        values: the options by their names, those of the launcher with `launch.` before it.

    """

    family: str
    values: dict[str, object] = field(default_factory=dict)


def looks_like_command(text: str) -> bool:
    """Return whether a text is a command line rather than the path of a file."""
    return " --" in f" {text}" or bool(SCRIPT.search(text) and len(text.split()) > 1)


def parse_command(text: str) -> Command:
    """Return the options of a command.

    Args:
        text: one command, or a script of a shell, of cmd.exe or of PowerShell that holds one.

    Raises:
        BwlabError: there is no such command, or several; it starts a script that trains something else; or its words
            are no options.

    """
    words = _words(_command_in(text))
    at = next((index for index, word in enumerate(words) if SCRIPT.fullmatch(word)), None)
    if at is None and not words[0].startswith("--"):
        raise BwlabError(ASKED, f"{words[0]!r} starts none of its scripts", f"Name one of {', '.join(FAMILIES)}")
    family = "" if at is None else _family(words[at])
    launch = {f"{LAUNCH}{name}": value for name, value in _options(words[: at or 0], LAUNCH)}
    known = {name: value for name, value in launch.items() if name in TAKES}
    return Command(family, {**known, **dict(_options(words if at is None else words[at + 1 :], ""))})


def _command_in(text: str) -> str:
    """Return the one command of a script that starts a trainer, with continued lines joined."""
    lines = [line.strip() for line in CONTINUED.sub(" ", text).splitlines()]
    lines = [line for line in lines if line and not COMMENT.match(line)]
    if len(lines) > 1:
        lines = [line for line in lines if any(SCRIPT.fullmatch(word) for word in _words(line))]
    if len(lines) != 1:
        found = "it is empty" if not lines else f"{len(lines)} commands start a Python script"
        raise BwlabError(ASKED, found, "Give one command that starts train_network.py")
    return lines[0]


def _words(line: str) -> list[str]:
    if WINDOWS.search(line):  # there a backslash is part of a path
        line = line.replace("\\", "\\\\")
    try:
        return shlex.split(line)
    except ValueError as error:
        raise BwlabError(ASKED, str(error).lower(), "Close its quotation marks") from None


def _family(word: str) -> str:
    script = SCRIPT.fullmatch(word)
    name = script[1] if script else word
    if name not in FAMILIES:
        raise BwlabError(
            f"{ASKED}: {name}", "it does not train adapters of these models", f"Known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def _options(words: list[str], table: str) -> Iterator[tuple[str, object]]:
    """Yield (name, value) of each option; words before the first option are those of a launcher."""
    at = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    if at and not table:
        raise BwlabError(f"{ASKED}: {words[0]}", "it is no option", "Begin options with --")
    while at < len(words):
        name, equals, value = words[at].removeprefix("--").partition("=")
        end = next((i for i in range(at + 1, len(words)) if words[i].startswith("--")), len(words))
        given = [value] if equals else words[at + 1 : end]
        name = name.replace("-", "_")
        for text in given:
            _require_value(name, text)
        yield name, _value(name, given, TAKES.get(table + name), strict=not table)
        at = end


def _require_value(name: str, text: str) -> None:
    variable = VARIABLE.search(text)
    if variable:
        found = f"{variable[0]} is a variable of a shell"
        raise BwlabError(f"{ASKED}: --{name} {text}", found, "Write its value in its place")


def _value(name: str, given: list[str], takes: Takes | None, *, strict: bool) -> object:
    if takes is Takes.TEXTS or (takes is None and len(given) > 1):
        return given
    if not given:
        if strict and takes not in (Takes.SWITCH, None):
            raise BwlabError(f"{ASKED}: --{name}", "its value is missing", "Write the value after it")
        return True
    if strict and (takes is Takes.SWITCH or len(given) > 1):
        extra = given[0] if takes is Takes.SWITCH else given[1]
        raise BwlabError(f"{ASKED}: --{name} {' '.join(given)}", f"{extra!r} belongs to no option", "Take it out")
    return given[0]
