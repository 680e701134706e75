"""What an adapter file says of its training, enough to run it again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bwlab.training.config import TrainConfig
from bwlab.training.data.captions import tags_of
from bwlab.training.data.examples import Example, dataset_hash
from bwlab.training.toml_text import toml_text

# As kohya's trainer writes them.
OPTIMIZERS = {
    "adamw": "torch.optim.adamw.AdamW",
    "adafactor": "transformers.optimization.Adafactor",
    "prodigy": "prodigyopt.prodigy.Prodigy",
}


def option_text(options: Mapping[str, object]) -> str:
    """Return options as they stand after an optimiser's name, ``(d_coef=2,eps=1e-08)``; nothing without any."""
    listed = ",".join(f"{name}={value}" for name, value in sorted(options.items()))
    return f"({listed})" if listed else ""


def training_metadata(config: TrainConfig, examples: tuple[Example, ...], base_hash: str, steps: int) -> dict[str, str]:
    """Return the entries of an adapter file: ``bwlab.*`` to run it again, ``ss_*`` as other tools read them.

    Args:
        config: of the run.
        examples: what it learned from.
        base_hash: of the base's weights.
        steps: optimiser steps taken.
    """
    training = config.training
    new = [example for example in examples if not example.regularisation]
    shown = sum(example.repeats for example in new)
    return {
        "bwlab.config": toml_text(config),
        "bwlab.blocks": config.adapter.blocks,
        "bwlab.base_hash": base_hash,
        "bwlab.dataset_hash": dataset_hash(examples),
        "ss_output_name": Path(config.out).name,
        "ss_sd_model_name": Path(config.base).name,
        "ss_num_train_images": str(shown),
        "ss_num_reg_images": str(shown if len(new) < len(examples) else 0),  # as many are shown
        "ss_num_batches_per_epoch": str(-(-shown * (2 if len(new) < len(examples) else 1) // training.batch_size)),
        "ss_total_batch_size": str(training.batch_size),
        "ss_steps": str(steps),
        "ss_max_train_steps": str(training.steps),
        "ss_gradient_accumulation_steps": str(training.accumulation),
        "ss_learning_rate": repr(training.rate()),
        "ss_unet_lr": training.block_lr or repr(training.rate()),
        "ss_optimizer": f"{OPTIMIZERS[training.optimizer]}{option_text(training.optimizer_options)}",
        "ss_lr_scheduler": training.schedule,
        "ss_lr_warmup_steps": str(training.warmup),
        "ss_max_grad_norm": repr(training.max_grad_norm),
        "ss_min_snr_gamma": str(training.min_snr_gamma),
        "ss_noise_offset": str(training.noise_offset or None),
        "ss_prior_loss_weight": repr(config.regularisation.weight),
        "ss_mixed_precision": training.precision,
        "ss_seed": str(training.seed),
        "ss_tag_frequency": json.dumps(tag_frequency(new), ensure_ascii=False),
    }


def tag_frequency(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Return how often each tag occurs, by the name of the images' folder, as kohya's trainer notes it."""
    counts: dict[str, Counter[str]] = {}
    for example in examples:
        counts.setdefault(example.path.parent.resolve().name, Counter()).update(tags_of(example.caption))
    return {folder: dict(counter) for folder, counter in counts.items()}
