"""Short names of adapter files, as people call adapters: `fox` for `runs/fox/adapter.safetensors`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bwlab.terminal import letters

RUN_FILE = "adapter.safetensors"


def adapter_name(path: Path) -> str:
    """Return a short name of an adapter file; an `adapter.safetensors` is named after its run folder.

    >>> adapter_name(Path("loras/fox.safetensors")), adapter_name(Path("runs/ink/adapter.safetensors"))
    ('fox', 'ink')
    """
    return path.parent.name or path.stem if path.name == RUN_FILE else path.stem


def adapter_names(files: Sequence[Path]) -> list[str]:
    """Return a different name for each adapter file: its short name, after the folders that distinguish it.

    Letters in the order of the files distinguish files with the same folders and name.

    >>> adapter_names([Path("fox.safetensors"), Path("old/ink.safetensors"), Path("new/ink.safetensors")])
    ['fox', 'old/ink', 'new/ink']
    >>> adapter_names([Path("fox.safetensors"), Path("fox.safetensors")])
    ['fox (a)', 'fox (b)']
    """
    parts = [_name_parts(file) for file in files]
    names = []
    for own, letter in zip(parts, letters(len(files)), strict=True):
        labels = ([other[-depth:] for other in parts] for depth in range(1, len(own) + 1))
        depth = next((depth for depth, known in enumerate(labels, 1) if known.count(own[-depth:]) == 1), None)
        names.append(f"{own[-1]} ({letter})" if depth is None else "/".join(own[-depth:]))
    return names


def _name_parts(file: Path) -> tuple[str, ...]:
    """Return the folders of an adapter and its short name; those of a run folder are the folders that hold it."""
    path = file.absolute()
    folder = path.parent.parent if path.name == RUN_FILE else path.parent
    return (*folder.parts[1:], adapter_name(path))
