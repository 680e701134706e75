"""Named groups of settings."""

from __future__ import annotations

from collections.abc import Mapping

from bwlab.errors import BwlabError

PRESETS: Mapping[str, Mapping[str, object]] = {
    # Block-wise LoRA (arXiv 2403.07500), section 4: 20 images x 25 repeats, about 500 regularisation pictures made by
    # the base, 11,000 steps of 2, sampling at CFG 7. Where to and of what the base draws, only the user can say.
    "paper": {
        "adapter.type": "locon",
        "data.repeats": 25,
        "regularisation.generate": 500,
        "training.steps": 11_000,
        "training.batch_size": 2,
        "preview.every": 1000,
        "preview.steps": 25,
        "preview.cfg": 7.0,
        "checkpoint.every": 1000,
    },
}


def preset(name: str) -> Mapping[str, object]:
    """Return the settings of a preset by dotted key; BwlabError naming the presets if there is none of that name."""
    if name not in PRESETS:
        raise BwlabError(f"--preset {name}", "no such preset", f"Choose from: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
