"""Which process a base was trained by; light to import."""

from __future__ import annotations

from collections.abc import Mapping


def is_flow(config: Mapping[str, object]) -> bool:
    """Return whether the config of a base's scheduler is that of flow matching rather than diffusion."""
    return (
        str(config.get("_class_name", "")).startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction"
    )
