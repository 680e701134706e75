"""Adapters of a plugin's model family: `<family>.<path of the module>.<leaf>`, with the leaves of PEFT and LyCORIS."""

from __future__ import annotations

import re

from bwlab.formats.dialects.dotted import LEAF
from bwlab.formats.types import FormatReader, KeyParser


def reader_of(family: str) -> FormatReader:
    """Return the reader of the adapters that `bwlab train` writes for a family's models."""
    pattern = re.compile(rf"{re.escape(family)}\.(.+?)\.({LEAF})")

    def split(key: str) -> tuple[str, str] | None:
        match = pattern.fullmatch(key)
        return (match[1], match[2]) if match else None

    return FormatReader(
        family,
        f"adapters of the model family {family}: {family}.<path>.lora_A.weight",
        lambda keys, metadata: any(split(key) for key in keys),
        keys=KeyParser(split, lambda name: name),
    )
