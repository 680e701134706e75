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
    "text_encoder_lr": 'a learning rate of its own: --block-lr "te=5e-5" (training.block_lr)',
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
    "caption_extension": "--set data.caption_extension=.txt",
    "flip_aug": "--set data.flip=true",
    "caption_dropout_rate": "--set data.caption_dropout=0.1",
    "caption_tag_dropout_rate": "--set data.tag_dropout=0.1",
    "cache_latents_to_disk": "--set data.cache=true",
    "max_token_length": "--set data.max_tokens=150",
    "enable_bucket": "--set data.buckets=true",
    "min_bucket_reso": "--set data.bucket_min=256",
    "max_bucket_reso": "--set data.bucket_max=1024",
    "clip_skip": "--set training.clip_skip=2",
    "min_snr_gamma": "--set training.min_snr_gamma=5",
    "noise_offset": "--set training.noise_offset=0.05",
    "keep_tokens": "--set data.keep_tokens=1",
    "shuffle_caption": "--set data.shuffle_caption=true",
    "gradient_checkpointing": "--set training.gradient_checkpointing=true",
    "max_grad_norm": "--set training.max_grad_norm=1",
    "resolution": "--set data.resolution=512",
    "network_args": "an adapter type's own options (adapter.options)",
    "network_train_unet_only": "what happens unless --blocks names te",
    "network_train_text_encoder_only": '--blocks "te=8" (adapter.blocks)',
    "down_lr_weight": '--block-lr "lower=5e-5, upper=1e-4" (training.block_lr), as learning rates',
    "mid_lr_weight": '--block-lr "mid=5e-5" (training.block_lr), as learning rates',
    "up_lr_weight": '--block-lr "lower=5e-5, upper=1e-4" (training.block_lr), as learning rates',
    "instance_prompt": "--set data.caption=... for images without a caption file",
    "v_parameterization": "read from the base; nothing is to be given",
    "sdpa": "what is always used; nothing is to be given",
    "xformers": "not needed: PyTorch's own attention is used",
    "lowram": "not needed: models are loaded once",
    "prior_loss_weight": "--set regularisation.weight=1",
    "reg_data_dir": "--set regularisation.folder=DIR",
    "ema_decay": "--set training.ema=0.999",
}


SCALE = "--scale, or FILE:WEIGHT in --adapter"
SIZE = "given by the base: images have the size that it was trained for"
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
    "width": SIZE,
    "height": SIZE,
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
    return hints.get(name.lstrip("-").rpartition(".")[2].replace("-", "_").lower())
