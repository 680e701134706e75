"""The one entry to adapter files: `read_contents` finds the dialect of a file and reads it."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from bwlab.errors import BwlabError, BwlabWarning, first_line
from bwlab.formats.architecture import foreign_model
from bwlab.formats.contents import (
    AND,
    MADE_FOR,
    PICKLE_SUFFIXES,
    AdapterContents,
    ParsedKey,
    assemble,
    file_kind,
)
from bwlab.formats.dialects import READERS
from bwlab.formats.keys import ALPHA, MAGNITUDE, canonical_leaf
from bwlab.formats.safetensors import AdapterFile, open_adapter_file
from bwlab.formats.tensors import LazyTensor
from bwlab.formats.types import FormatReader, Formats, NumbersOf

# Extra tensors that trainers store with an adapter: embeddings of new tokens, and other forms that bwlab does not use.
BUNDLED = re.compile(r"bundle_emb\.(.+)\.(?:string_to_param\.\*|(clip_l)|(clip_g))")
BESIDE = re.compile(r"bundle_emb\..+")
OF_ADAPTERS = re.compile(r"lora|lokr|hada|oft|dora|alpha|ia3|\.diff|on_input|\.[a-c][12]\.")


def read_contents(path: str | Path, manager: Formats | None = None, *, pickles: bool = False) -> AdapterContents:
    """Return the contents of an adapter file: the header and the alphas; other numbers are read on demand.

    Args:
        path: a safetensors file; its dialect is found from its keys.
        manager: the source of format readers, including those of plugins; None for the built-in readers only.
        pickles: whether to read `.pt` and `.bin` files too; no code in them runs.

    Raises:
        BwlabError: the file is missing or broken, is a pickle that is not allowed or needs to run code, has no known
            dialect or several, or its tensors do not form modules.

    """
    path = Path(path)
    file = _open(path, pickles)
    if not file.entries:
        raise BwlabError(f"reading adapter {path}", "it holds no tensors", "Give an adapter file")
    return _with_types(contents_of(file, readers_of(manager)), manager)


def _with_types(contents: AdapterContents, manager: Formats | None) -> AdapterContents:
    """Return the contents with the modules of plugins' adapter types as those plugins compute them."""
    if manager is None or all(module.has_delta for module in contents.modules.values()):
        return contents
    modules = {
        path: module if module.has_delta else manager.module_of_type(module)
        for path, module in contents.modules.items()
    }
    return dataclasses.replace(contents, modules=modules)


def readers_of(manager: Formats | None) -> tuple[FormatReader, ...]:
    """Return the readers that a manager knows, or the built-in readers if it knows none or there is no manager."""
    formats = () if manager is None else manager.formats()
    return tuple(entry for entry in formats if isinstance(entry, FormatReader)) or READERS


def contents_of(file: AdapterFile, readers: Sequence[FormatReader]) -> AdapterContents:
    """Return the contents of a file, read by the readers that recognise it.

    Readers with `fallback` (the built-in readers) are used only if no other reader recognises the file, so that a
    plugin can read a special kind of a known dialect. Readers that read key by key are tried in turn for every key.

    Raises:
        BwlabError: no reader recognises the file, or several do and one of them reads whole files only.

    """
    matching = [reader for reader in readers if _recognises(reader, file)]
    matching = [reader for reader in matching if not reader.fallback] or matching
    if not matching:
        raise _no_dialect(file, readers)
    if all(reader.keys is not None for reader in matching):
        others = [reader for reader in readers if reader.keys is not None and reader not in matching]
        return read_keys(file, [*matching, *others])
    if len(matching) > 1 or matching[0].read is None:
        names = " and ".join(reader.name for reader in matching)
        raise BwlabError(
            f"reading adapter {file.path}",
            f"its keys are of several dialects: {names}",
            "Give a file that one tool wrote, or split it",
        )
    return matching[0].read(file)


def _recognises(reader: FormatReader, file: AdapterFile) -> bool:
    try:
        return reader.recognises(file.entries.keys(), file.metadata)
    except Exception as error:  # of a plugin: it must not stop the readers of other files
        found = f"its recognises() raised {type(error).__name__}: {first_line(error)}"
        warnings.warn(f"reader of the format {reader.name} is left out: {found}", BwlabWarning, stacklevel=2)
        return False


def read_keys(file: AdapterFile, readers: Sequence[FormatReader]) -> AdapterContents:
    """Return the contents of a file, each key by the first of the readers that understands it.

    Args:
        file: the file.
        readers: the readers that have `keys`, in the order in which they are tried.

    Raises:
        BwlabError: see `assemble`.

    """
    parsed: dict[str, list[ParsedKey]] = {reader.name: [] for reader in readers}
    paths: dict[tuple[str, str], str | None] = {}
    parsers = [(reader.name, reader.keys) for reader in readers if reader.keys is not None]
    unknown = []
    for key in file.entries:
        if BESIDE.fullmatch(key):
            continue
        for dialect, parser in parsers:
            name, leaf = parser.split(key) or ("", "")
            if name and (dialect, name) not in paths:
                paths[dialect, name] = parser.path(name)
            path = paths.get((dialect, name))
            if path is not None:
                parsed[dialect].append(parsed_key(file, key, path, leaf))
                break
        else:
            unknown.append(key)
    counts = {name: sum(key.leaf != ALPHA for key in keys) for name, keys in parsed.items()}
    names = sorted((name for name, count in counts.items() if count), key=lambda name: -counts[name])
    every = [key for keys in parsed.values() for key in keys]
    in_order = {key: index for index, key in enumerate(file.entries)}
    return assemble(
        file,
        AND.join(names) or readers[0].name,
        sorted(every, key=lambda key: in_order[key.key]),
        alphas=_stored_outside(file, [(parser.alphas, parsed[dialect]) for dialect, parser in parsers]),
        scales=_stored_outside(file, [(parser.scales, parsed[dialect]) for dialect, parser in parsers]),
        embeddings=bundled_embeddings(file),
        unknown=unknown,
    )


def _stored_outside(
    file: AdapterFile, readings: Iterable[tuple[NumbersOf | None, Sequence[ParsedKey]]]
) -> dict[str, float]:
    """Return path -> number, from the functions of the dialects that have keys in a file."""
    stored: dict[str, float] = {}
    for numbers_of, keys in readings:
        if numbers_of is not None and keys:
            stored |= numbers_of(file, keys)
    return stored


def parsed_key(file: AdapterFile, key: str, path: str, leaf: str) -> ParsedKey:
    """Return a key with its leaf as kohya and LyCORIS name and shape it; DoRA's vector of lengths is a column there."""
    name = canonical_leaf(leaf)
    shape = file.entries[key].shape
    if name != MAGNITUDE or leaf == MAGNITUDE:
        return ParsedKey(key, path, name)
    column = (math.prod(shape), *(1 for _ in shape[1:])) if len(shape) > 1 else (math.prod(shape), 1)
    return ParsedKey(key, path, name, column)


def bundled_embeddings(file: AdapterFile) -> dict[str, LazyTensor]:
    """Return token -> embedding for the embeddings stored with an adapter; tokens of `clip_g` start with `te2:`."""
    embeddings = {}
    for key in file.entries:
        match = BUNDLED.fullmatch(key)
        if match:
            embeddings[f"te2:{match[1]}" if match[3] else match[1]] = file.tensor(key)
    return embeddings


def _open(path: Path, pickles: bool) -> AdapterFile:
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        return open_adapter_file(path)
    if pickles:
        from bwlab.formats.pickles import open_pickle  # which no other file needs

        return open_pickle(path)
    raise BwlabError(
        f"reading adapter {path}",
        "it is a pickle of an old tool, which bwlab reads only to convert it",
        f"Run: bwlab convert {path} {path.with_suffix('.safetensors')} --to kohya",
    )


def _no_dialect(file: AdapterFile, readers: Sequence[FormatReader]) -> BwlabError:
    asked, first = f"reading adapter {file.path}", next(iter(file.entries))
    model, kind = foreign_model(file.entries), file_kind(file.entries)
    if model is not None and any(OF_ADAPTERS.search(key) for key in file.entries):
        return BwlabError(asked, f"it is an adapter for {model}", MADE_FOR)
    if model is not None:
        kind = "a whole model: a transformer"
    if kind is not None:
        return BwlabError(asked, f"it is {kind}, not a LoRA or its like", "Give an adapter file")
    found = f"none of the known dialects has keys such as {first!r}"
    if first.endswith((".weight", ".bias")) and not any(OF_ADAPTERS.search(key) for key in file.entries):
        found += "; it looks like a whole model"
    return BwlabError(asked, found, f"Known: {', '.join(reader.name for reader in readers)} (bwlab plugins)")
