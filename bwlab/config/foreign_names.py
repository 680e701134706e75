"""Names of settings in other trainers (kohya sd-scripts, OneTrainer, ai-toolkit, PEFT), and what they are here."""

from __future__ import annotations

from collections.abc import Mapping

RANK = 'the rank of the blocks: --blocks "all=16" (adapter.blocks)'
BASE = "--base (base)"
PREVIEWS = "previews every N steps: --set preview.every=100"
EPOCH_PREVIEWS = "previews every N epochs: --set preview.every_epochs=1"
EPOCH_CHECKPOINTS = "checkpoints every N epochs: --set checkpoint.every_epochs=1"
CHECKPOINTS = "checkpoints every N steps: --set checkpoint.every=500"

HINTS: Mapping[str, str] = {
    "network_dim": RANK,
    "network_rank": RANK,
    "lora_rank": RANK,
    "lora_r": RANK,
    "rank": RANK,
    "linear": RANK,
    "conv_dim": 'the rank of the blocks, for convolutions too: --adapter locon --blocks "all=16" (adapter.blocks)',
    "block_dims": 'a rank for each block: --blocks "upper=16, mid=4" (adapter.blocks)',
    "target_modules": 'the blocks with a rank: --blocks "upper=16, mid=4" (adapter.blocks)',
    "network_alpha": "--alpha (adapter.alpha)",
    "lora_alpha": "--alpha (adapter.alpha)",
    "linear_alpha": "--alpha (adapter.alpha)",
    "network_module": "--adapter (adapter.type)",
    "network_weights": "--initial (adapter.initial)",
    "pretrained_model_name_or_path": BASE,
    "base_model_name": BASE,
    "name_or_path": BASE,
    "model_name": BASE,
    "ckpt": BASE,
    "train_data_dir": "--data (data.folder)",
    "folder_path": "--data (data.folder)",
    "dataset_config": "--dataset (data.dataset)",
    "output_dir": "--out (out)",
    "output_name": "--name (output.name); --out is the folder of the run",
    "max_train_steps": "--steps (training.steps)",
    "max_train_epochs": "--epochs (training.epochs)",
    "num_train_epochs": "--epochs (training.epochs)",
    "train_batch_size": "--batch-size (training.batch_size)",
    "gradient_accumulation_steps": "--accumulation (training.accumulation)",
    "learning_rate": "--lr (training.lr)",
    "unet_lr": "--lr (training.lr)",
    "text_encoder_lr": 'a rate of its own: --block-lr "te=0.1" (training.block_lr), as a factor of --lr',
    "block_lr_zero_threshold": "--block-lr (training.block_lr)",
    "lr_scheduler": "--schedule (training.schedule)",
    "lr_warmup_steps": "--warmup (training.warmup)",
    "optimizer_type": "--optimizer (training.optimizer)",
    "mixed_precision": "--precision (training.precision)",
    "save_every_n_steps": CHECKPOINTS,
    "save_every": CHECKPOINTS,
    "save_every_n_epochs": EPOCH_CHECKPOINTS,
    "sample_every_n_epochs": EPOCH_PREVIEWS,
    "save_precision": "--save-dtype (output.dtype)",
    "sample_every_n_steps": PREVIEWS,
    "sample_every": PREVIEWS,
    "sample_prompts": "--set preview.prompts=...",
    "caption_extention": "--set data.caption_extension=.txt",
    "flip_aug": "--set data.flip=true",
    "caption_dropout_rate": "--set data.caption_dropout=0.1",
    "caption_tag_dropout_rate": "--set data.tag_dropout=0.1",
    "cache_latents_to_disk": "--set data.cache=true",
    "max_token_length": "--set data.max_tokens=150",
    "enable_bucket": "--set data.buckets=true",
    "min_bucket_reso": "--set data.bucket_min=256",
    "max_bucket_reso": "--set data.bucket_max=1024",
    "clip_skip": "--set training.clip_skip=2",
    "prior_loss_weight": "--set regularisation.weight=1",
    "reg_data_dir": "--set regularisation.folder=DIR",
    "ema_decay": "--set training.ema=0.999",
}


def hint_for(name: str) -> str | None:
    """Return what a setting of another trainer is called here; None for a name that no trainer is known to have.

    Args:
        name: as an option, `--network_dim`, or a key, `training.network_dim`.

    >>> hint_for("--pretrained-model-name-or-path")
    '--base (base)'
    """
    return HINTS.get(name.lstrip("-").rpartition(".")[2].replace("-", "_").lower())
