"""Other packages send no usage data home when bwlab runs them, unless the user says so."""

from __future__ import annotations

import os

# What each package reads when it is first imported, or starts.
REFUSALS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # Hugging Face's libraries: details of this machine beside what is downloaded
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime, which diffusers imports: an identifier of this machine and sessions
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",  # W&B asks its server for it even where a run is offline
}


def refuse_telemetry() -> None:
    """Set the variables of `REFUSALS` for this process and those that it starts; those that are set stay."""
    for name, value in REFUSALS.items():
        os.environ.setdefault(name, value)
