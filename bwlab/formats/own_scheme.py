"""The block scheme of a plugin's model family in the metadata of adapter files, which hold no config."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from bwlab.blocks.scheme import ALL, BlockScheme, Module
from bwlab.text import parse_json

SCHEME_KEY, NAMES_KEY = "bwlab.scheme", "bwlab.scheme_names"
MOST_MODULES = 100_000  # a file that names more names no model
NAME = re.compile(r"[A-Za-z][\w.-]{0,99}", re.ASCII)  # of a block, a cell or a part: what a block spec can hold


def scheme_entries(scheme: BlockScheme) -> dict[str, str]:
    """Return the entry of the metadata from which `scheme_in` finds the scheme again, without its aliases."""
    modules = [[module.path, module.cell, module.block] for module in scheme.modules]
    names = {"denoiser": scheme.denoiser, "modules": modules, "parts": dict(scheme.parts)}
    return {NAMES_KEY: json.dumps(names, separators=(",", ":"))}


def scheme_in(metadata: Mapping[str, str], paths: Iterable[str]) -> BlockScheme | None:
    """Return the scheme that metadata hold; None without one, or if it is spoilt or does not name all of `paths`."""
    try:
        names = parse_json(metadata[NAMES_KEY])
        modules = tuple(_module(entry) for entry in names["modules"])
        parts = tuple((str(name), _texts(members)) for name, members in names["parts"].items())
        denoiser = str(names["denoiser"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    scheme = BlockScheme(metadata.get(SCHEME_KEY, ""), modules, parts, denoiser=denoiser)
    return scheme if _is_sound(scheme) and all(scheme.module_of(path) is not None for path in paths) else None


def _is_sound(scheme: BlockScheme) -> bool:
    """Return whether names can be written in a block spec, and parts name what there is."""
    blocks = {text for module in scheme.modules for text in (module.block, module.cell)}
    known = blocks | {module.path for module in scheme.modules}
    written = {scheme.name, *blocks, *(name for name, _ in scheme.parts), *scheme.denoiser.split(" ")}
    return (
        ALL in dict(scheme.parts)
        and len(scheme.modules) <= MOST_MODULES
        and all(NAME.fullmatch(text) for text in written)
        and all(member in known for _, members in scheme.parts for member in members)
    )


def _module(entry: object) -> Module:
    path, cell, block = _texts(entry)
    return Module(path, cell, block)


def _texts(entry: object) -> tuple[str, ...]:
    """Return a list of texts as a tuple; ValueError if it is something else."""
    if not isinstance(entry, list) or not all(isinstance(text, str) for text in entry):
        raise ValueError(entry)
    return tuple(entry)
