"""The commands of a page: found in its blocks of shell code, and parsed as the command line parses them."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

from typer.main import get_command

from bwlab.cli.app import build_app
from docs.generate import own_manager

BLOCK = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(bwlab [^`]+)`")


def commands(text: str) -> list[list[str]]:
    """Return the words of each command in the blocks of shell code of a page, in order; comments are left out."""
    code = "\n".join(block for _, block in BLOCK.findall(text)).replace("\\\n", " ")
    return [words for line in code.splitlines() if (words := shlex.split(line, comments=True))]


def mentioned(text: str) -> list[list[str]]:
    """Return the words of each command that stands within a sentence, which may be cut short by dots."""
    prose = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(found.replace("\n", " ")) for found in INLINE.findall(prose)]


@cache
def command_line() -> Any:
    """Return the command line with bwlab's own plugins, as typer makes it for click."""
    return get_command(build_app(own_manager())[0])


def found(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words name, and the words after its name; AssertionError if there is none."""
    command, rest = command_line(), words[1:]
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{shlex.join(words)}: there is no {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the values of a command's arguments and options; click's error if the command line refuses it."""
    command, rest = found(words)
    return dict(command.make_context(words[0], rest).params)
