"""A key of an adapter file in canonical terms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placed:
    """A key that a reader understands.

    Attributes:
        key: in the file.
        path: of the module: a diffusers path, `te.<path>` or `te2.<path>`.
        leaf: canonical name, `"lora_down.weight"`, `"alpha"`, ...
        shape: for a leaf that other tools store in another shape than kohya and LyCORIS; None: as it is.
    """

    key: str
    path: str
    leaf: str
    shape: tuple[int, ...] | None = None
