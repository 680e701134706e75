"""Nodes as classes of ComfyUI's V3 schema, and the extension that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .node import CATEGORY, Input, Node, Output, adapter_files

# The names of the types in `comfy_api.latest.io`.
TYPES = {"MODEL": "Model", "CLIP": "Clip", "IMAGE": "Image", "STRING": "String", "ADAPTER": "Combo"}


def extension(nodes: Sequence[Node]) -> Any:
    """Return the extension of these nodes."""
    from comfy_api.latest import ComfyExtension, io

    classes = [node_class(node, io) for node in nodes]

    async def get_node_list(_: object) -> list[type]:
        return classes

    return type("BwlabExtension", (ComfyExtension,), {"get_node_list": get_node_list})()


def node_class(node: Node, io: Any) -> type:
    """Return the class of a node; `io` is `comfy_api.latest.io`."""

    def define_schema(_: type, /) -> Any:
        return io.Schema(
            node_id=node.name,
            display_name=node.title,
            category=CATEGORY,
            description=node.description,
            inputs=[_input(entry, io) for entry in node.inputs],
            outputs=[_output(entry, io) for entry in node.outputs],
        )

    def execute(_: type, /, **inputs: Any) -> Any:
        return io.NodeOutput(*node.run(**inputs))

    return type(
        node.name, (io.ComfyNode,), {"define_schema": classmethod(define_schema), "execute": classmethod(execute)}
    )


def _input(entry: Input, io: Any) -> Any:
    options: dict[str, Any] = {"tooltip": entry.tooltip, "optional": entry.optional}
    if entry.kind == "STRING":
        options |= {"default": entry.default, "multiline": entry.multiline}
    if entry.kind == "ADAPTER":
        options |= {"options": adapter_files()}
    return getattr(io, TYPES[entry.kind]).Input(entry.name, **options)


def _output(entry: Output, io: Any) -> Any:
    return getattr(io, TYPES[entry.kind]).Output(display_name=entry.name, tooltip=entry.tooltip)
