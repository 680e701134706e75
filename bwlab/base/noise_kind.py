"""Which process a base was trained by, from the config of its scheduler; light to import."""

from __future__ import annotations

from collections.abc import Mapping


def is_flow(config: Mapping[str, object]) -> bool:
    """Return whether the config of a base's scheduler is that of flow matching rather than diffusion."""
    return (
        str(config.get("_class_name", "")).startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction"
    )


def fixed_shift(config: Mapping[str, object]) -> float:
    """Return the shift in the config of a scheduler of flow matching, by either of diffusers' names; 1 if it has none.

    >>> fixed_shift({"flow_shift": 3.0})
    3.0
    """
    return float(str(config.get("shift", config.get("flow_shift", 1.0))))
