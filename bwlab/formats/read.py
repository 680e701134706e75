"""The one entry to adapter files: `read_contents` finds the dialect of a file and reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bwlab.errors import BwlabError
from bwlab.formats.contents import AdapterContents
from bwlab.formats.dialects import READERS
from bwlab.formats.pickles import PICKLE_SUFFIXES, open_pickle
from bwlab.formats.safetensors import AdapterFile, open_adapter_file
from bwlab.formats.types import FormatReader, Formats

WHOLE_MODEL = ("model.diffusion_model.", "cond_stage_model.", "first_stage_model.")


def read_contents(path: str | Path, manager: Formats | None = None, *, pickles: bool = False) -> AdapterContents:
    """Return what is in an adapter file: the header and the alphas; other numbers are read when they are asked for.

    Args:
        path: a safetensors file; its dialect is found from its keys.
        manager: asked for the readers of formats, plugins' included; None: the built-in readers alone.
        pickles: whether to read `.pt` and `.bin` files too, through torch's weights-only loader.

    Raises:
        BwlabError: the file is missing, broken, a pickle that is not wanted or wants to run code, of no or of several
            known dialects, or its tensors do not make modules.

    """
    path = Path(path)
    file = _open(path, pickles)
    if not file.entries:
        raise BwlabError(f"reading adapter {path}", "it holds no tensors", "Give an adapter file")
    return reader_for(file, readers_of(manager)).read(file)


def readers_of(manager: Formats | None) -> tuple[FormatReader, ...]:
    """Return the readers that a manager knows; if it knows none, or there is no manager, the built-in ones."""
    formats = () if manager is None else manager.formats()
    return tuple(entry for entry in formats if isinstance(entry, FormatReader)) or READERS


def reader_for(file: AdapterFile, readers: Sequence[FormatReader]) -> FormatReader:
    """Return the one reader that recognises a file.

    Readers with `fallback` (the built-in ones) are asked only where no other recognises the file, so that a plugin can
    read a special kind of a known dialect.

    Raises:
        BwlabError: none, or several, recognise it.

    """
    matching = [reader for reader in readers if reader.recognises(file.entries.keys(), file.metadata)]
    matching = [reader for reader in matching if not reader.fallback] or matching
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = " and ".join(reader.name for reader in matching)
        raise BwlabError(
            f"reading adapter {file.path}",
            f"its keys are of several dialects: {names}",
            "Give a file that one tool wrote, or split it",
        )
    raise _no_dialect(file, readers)


def _open(path: Path, pickles: bool) -> AdapterFile:
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        return open_adapter_file(path)
    if pickles:
        return open_pickle(path)
    raise BwlabError(
        f"reading adapter {path}",
        "it is a pickle of an old tool, which bwlab reads only to convert it",
        f"Run: bwlab convert {path} {path.with_suffix('.safetensors')} --to kohya",
    )


def _no_dialect(file: AdapterFile, readers: Sequence[FormatReader]) -> BwlabError:
    first = next(iter(file.entries))
    keys = f"none of the known dialects has keys such as {first!r}"
    if any(key.startswith(WHOLE_MODEL) for key in file.entries):
        keys = "it is a whole model, no adapter"
    elif first.endswith((".weight", ".bias")) and not any("lora" in key or "lokr" in key for key in file.entries):
        keys += "; it looks like a whole model"
    return BwlabError(
        f"reading adapter {file.path}", keys, f"Known: {', '.join(reader.name for reader in readers)} (bwlab plugins)"
    )
