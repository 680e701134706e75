"""The description of a node, from which the classes of both of ComfyUI's interfaces are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

# MODEL, CLIP, IMAGE and STRING are ComfyUI's own types; ADAPTER is a choice of the files in its folder `loras`.
Kind: TypeAlias = Literal["MODEL", "CLIP", "IMAGE", "STRING", "ADAPTER"]

CATEGORY = "bwlab"


@dataclass(frozen=True)
class Input:
    """An input of a node.

    Attributes:
        name: the name, which is that of the function's parameter.
        kind: the type.
        tooltip: the explanation that ComfyUI shows.
        default: the text at first, of a STRING.
        optional: whether it may stay unconnected.
        multiline: whether the text has several lines, of a STRING.

    """

    name: str
    kind: Kind
    tooltip: str
    default: str = ""
    optional: bool = False
    multiline: bool = False


@dataclass(frozen=True)
class Output:
    """An output of a node: its name, type and explanation."""

    name: str
    kind: Kind
    tooltip: str


@dataclass(frozen=True)
class Node:
    """A node.

    Attributes:
        name: the name in workflows, which must never change.
        title: the name that ComfyUI shows.
        description: the explanation that ComfyUI shows.
        inputs: the inputs.
        outputs: the outputs.
        run: function of the inputs by name, which returns the outputs in order.

    """

    name: str
    title: str
    description: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    run: Callable[..., tuple[Any, ...]]


def adapter_files() -> list[str]:
    """Return the names of the files in ComfyUI's folder `loras`."""
    import folder_paths

    names: list[str] = folder_paths.get_filename_list("loras")
    return names
