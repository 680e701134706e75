"""How an adapter was trained, as far as its metadata says: the entries of kohya's trainer and of bwlab."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

MOST_TAGS = 12

# Label -> metadata keys, of which the first that is there and says something counts.
ENTRIES: Mapping[str, tuple[str, ...]] = {
    "name": ("ss_output_name", "name"),
    "base model": ("ss_sd_model_name", "sshs_model_name", "bwlab.base"),
    "base version": ("ss_base_model_version", "ss_sd_model_version"),
    "base hash": ("ss_new_sd_model_hash", "ss_sd_model_hash", "bwlab.base_hash"),
    "network": ("ss_network_module",),
    "network dim": ("ss_network_dim",),
    "network alpha": ("ss_network_alpha",),
    "network arguments": ("ss_network_args",),
    "steps": ("ss_steps", "ss_max_train_steps", "bwlab.steps"),
    "epochs": ("ss_epoch", "ss_num_epochs"),
    "pictures": ("ss_num_train_images",),
    "regularisation pictures": ("ss_num_reg_images",),
    "batch size": ("ss_total_batch_size", "ss_batch_size_per_device"),
    "resolution": ("ss_resolution",),
    "learning rate": ("ss_learning_rate",),
    "learning rate, UNet": ("ss_unet_lr",),
    "learning rate, text": ("ss_text_encoder_lr",),
    "schedule": ("ss_lr_scheduler",),
    "optimiser": ("ss_optimizer",),
    "precision": ("ss_mixed_precision",),
    "seed": ("ss_seed",),
    "adapter type": ("bwlab.adapter_type",),
    "ranks": ("bwlab.ranks",),
    "bwlab": ("bwlab.version",),
    "comment": ("ss_training_comment",),
}
NOTHING = ("", "None", "null", "{}", "0")


def training_summary(metadata: Mapping[str, str]) -> dict[str, str]:
    """Label -> what the metadata says, for what it says something about; empty for files without metadata."""
    found = {
        label: text
        for label, keys in ENTRIES.items()
        if (text := next((metadata[key] for key in keys if metadata.get(key, "") not in NOTHING), None)) is not None
    }
    finished = _date(metadata.get("ss_training_finished_at", ""))
    if finished:
        found["finished"] = finished
    tags = tag_counts(metadata)
    if tags:
        listed = ", ".join(f"{tag} {count}" for tag, count in list(tags.items())[:MOST_TAGS])
        found["tags"] = listed + (f" and {len(tags) - MOST_TAGS} more" if len(tags) > MOST_TAGS else "")
    return found


def tag_counts(metadata: Mapping[str, str]) -> dict[str, int]:
    """Tag -> how often captions had it, the commonest first; over all folders of `ss_tag_frequency`."""
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in folders.values():
            counts.update({tag.strip(): int(count) for tag, count in tags.items()})
    except (ValueError, AttributeError, TypeError):
        return {}
    return dict(counts.most_common())


def _date(seconds: str) -> str | None:
    try:
        return datetime.fromtimestamp(float(seconds), UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return None
