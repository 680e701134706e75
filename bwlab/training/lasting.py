"""Which settings a run must keep when it is resumed."""

from __future__ import annotations

from bwlab.training.config import TrainConfig
from bwlab.training.sources import flat_settings

# What changes neither weights nor the order of things. The base and the data are told by their contents instead.
FREE = frozenset(
    {
        "base",
        "out",
        "adapter.initial",  # only where it started
        "training.device",
        "training.gradient_checkpointing",
        "training.precision",  # what it comes to on this machine counts
    }
)
FREE_SECTIONS = ("data.", "regularisation.", "preview.", "checkpoint.", "tracking.")


def is_free(key: str, config: TrainConfig) -> bool:
    """Return whether a setting may change when a run is resumed; the number of steps unless a schedule needs it."""
    if key == "training.steps":
        return config.training.schedule == "constant"
    return key in FREE or key.startswith(FREE_SECTIONS)


def lasting_settings(config: TrainConfig) -> dict[str, str]:
    """Return the settings that must stay the same for a run to be resumed, by key."""
    values = {**flat_settings(config), "training.lr": config.training.rate()}
    return {key: setting_text(value) for key, value in values.items() if not is_free(key, config)}


def setting_text(value: object) -> str:
    """Return a setting's value as text, the same for the same value."""
    return str(sorted(value.items())) if isinstance(value, dict) else str(value)
