"""Nodes as classes of ComfyUI's older interface: `INPUT_TYPES`, `RETURN_TYPES` and a mapping of names to classes."""

from __future__ import annotations

from typing import Any

from .node import CATEGORY, Input, Node, adapter_files


def node_class(node: Node) -> type:
    """Return the class of a node."""

    def input_types(_: type) -> dict[str, dict[str, Any]]:
        required = {entry.name: _declared(entry) for entry in node.inputs if not entry.optional}
        optional = {entry.name: _declared(entry) for entry in node.inputs if entry.optional}
        return {"required": required, "optional": optional}

    def run(_: object, **inputs: Any) -> tuple[Any, ...]:
        return node.run(**inputs)

    return type(
        node.name,
        (),
        {
            "INPUT_TYPES": classmethod(input_types),
            "RETURN_TYPES": tuple(output.kind for output in node.outputs),
            "RETURN_NAMES": tuple(output.name for output in node.outputs),
            "OUTPUT_TOOLTIPS": tuple(output.tooltip for output in node.outputs),
            "FUNCTION": "run",
            "CATEGORY": CATEGORY,
            "DESCRIPTION": node.description,
            "run": run,
        },
    )


def _declared(entry: Input) -> tuple[Any, dict[str, Any]]:
    options: dict[str, Any] = {"tooltip": entry.tooltip}
    if entry.kind == "STRING":
        options |= {"default": entry.default, "multiline": entry.multiline}
    return adapter_files() if entry.kind == "ADAPTER" else entry.kind, options
