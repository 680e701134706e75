"""Which text an adapter reads, from its file alone."""

from __future__ import annotations

from collections.abc import Mapping

from bwlab.formats.architecture import READS_TEXT


def text_widths(shapes: Mapping[str, tuple[int, int]]) -> frozenset[int]:
    """Widths of the text features that cross attention reads: 768 for SD 1.x, 1024 for SD 2.x, 2048 for SDXL."""
    return frozenset(shape[1] for module, shape in shapes.items() if READS_TEXT.match(module))
