"""Registers the built-in formats; light to import."""

from __future__ import annotations

from bwlab.formats.dialects.table import BUILT_IN as READERS
from bwlab.formats.writers.table import BUILT_IN as WRITERS
from bwlab.hookspecs import hookimpl
from bwlab.registry import FormatType


@hookimpl
def bwlab_register_formats() -> list[FormatType]:
    """The built-in readers and writers."""
    return [*READERS, *WRITERS]
