"""ComfyUI nodes of bwlab; put this folder into ComfyUI's `custom_nodes`, see docs/comfyui.md in bwlab's repository.

ComfyUI imports the folder under a name of its own, so imports within it are relative. It asks for `comfy_entrypoint`
(the V3 schema) only where `NODE_CLASS_MAPPINGS` is None, and older versions know the mapping only.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from .nodes import NODES
from .older import node_class

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "comfy_entrypoint"]

HAS_V3 = find_spec("comfy_api") is not None and find_spec("comfy_api.latest") is not None
NODE_CLASS_MAPPINGS = None if HAS_V3 else {node.name: node_class(node) for node in NODES}
NODE_DISPLAY_NAME_MAPPINGS = None if HAS_V3 else {node.name: node.title for node in NODES}


async def comfy_entrypoint() -> Any:
    """Return the extension with all nodes, for ComfyUI versions with the V3 schema."""
    from .schema import extension

    return extension(NODES)
