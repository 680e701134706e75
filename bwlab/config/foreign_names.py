"""Names of options in other trainers (kohya's sd-scripts, OneTrainer, ai-toolkit, PEFT), and what they are here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bwlab.config.foreign.ai_toolkit import AI_TOOLKIT
from bwlab.config.foreign.kohya import KOHYA, RANK
from bwlab.config.foreign.onetrainer import ONETRAINER
from bwlab.config.foreign.rows import Place, Row

# Names of diffusers' training scripts and of PEFT, which the tables of other trainers lack.
OTHERS: Mapping[str, str] = {
    "network_rank": RANK,
    "lora_r": RANK,
    "r": RANK,
    "target_modules": 'the blocks with a rank: --blocks "upper=16, mid=4" (adapter.blocks)',
    "ckpt": "--base (base)",
    "model_name": "--base (base)",
    "num_train_epochs": "--epochs (training.epochs)",
    "instance_prompt": "--set data.caption=... for images without a caption file",
    "instance_data_dir": "--data (data.folder)",
    "class_data_dir": "--set regularisation.folder=DIR",
    "class_prompt": "--set regularisation.prompt=...",
    "validation_prompt": "--set preview.prompts=...",
    "checkpointing_steps": "checkpoints every N steps: --set checkpoint.every=500",
    "snr_gamma": "--set training.min_snr_gamma=5",
}
UNCLEAR = frozenset({"train", "enabled"})  # of so many tables that they mean nothing alone


def hints_of(rows: Iterable[Row]) -> dict[str, str]:
    """Return what the options of a trainer are here, by the last part of their names."""
    return {row.name.rpartition(".")[2].lower(): row.hint for row in rows}


HINTS: Mapping[str, str] = {
    **hints_of(row for row in (*ONETRAINER, *AI_TOOLKIT) if row.place is Place.HERE),
    **OTHERS,
    **hints_of(reversed(KOHYA)),  # an option wins over a network's of the same name
}
"""Names of options of other trainers, and what they are in `bwlab train`."""


SCALE = "--scale, or FILE:WEIGHT in --adapter"
GENERATE_HINTS: Mapping[str, str] = {
    "ckpt": "--base",
    "model": "--base",
    "pretrained_model_name_or_path": "--base",
    "guidance_scale": "--cfg",
    "cfg_scale": "--cfg",
    "num_images": "--count",
    "images_per_prompt": "--count",
    "num_images_per_prompt": "--count",
    "batch_count": "--count",
    "num_inference_steps": "--steps",
    "negative_prompt": "--negative",
    "weight": SCALE,
    "multiplier": SCALE,
    "network_mul": SCALE,
    "network_weights": "--adapter",
    "lora": "--adapter",
    "lora_weights": "--adapter",
    "outdir": "--out",
    "output_dir": "--out",
    "scheduler": "--sampler",
    "init_img": "--image",
    "denoising_strength": "--strength",
    "images_per_batch": "--batch-size",
    "w": "--width",
    "h": "--height",
}
"""Names of options in other programs that generate images, and what they are in `bwlab generate`."""


def hint_for(name: str, hints: Mapping[str, str] = HINTS) -> str | None:
    """Return what a setting of another program is called here; None for a name that none is known to have.

    Args:
        name: as an option, `--network_dim`, or a key, `training.network_dim`.
        hints: what each name is here: those of trainers, or of programs that generate images.

    >>> hint_for("--pretrained-model-name-or-path")
    '--base (base)'
    """
    word = name.lstrip("-").rpartition(".")[2].replace("-", "_").lower()
    return None if word in UNCLEAR else hints.get(word)
