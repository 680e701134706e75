"""The keys of ai-toolkit's configs (YAML) for its trainer `sd_trainer`.

Keys are those of the process, such as `network.linear`; those of a dataset are `datasets.NAME`.
"""

from __future__ import annotations

from bwlab.config.foreign.rows import Row, Takes, here, lacking, unneeded

SWITCH, WHOLE, NUMBER, TEXT, ANY = Takes.SWITCH, Takes.WHOLE, Takes.NUMBER, Takes.TEXT, Takes.ANY

LEAVE_OUT = "Leave it out"
MSE = "the loss is the mean squared error of what the base predicts"
READ = "the base says what it is"


def names(table: str, text: str) -> str:
    """Return names within a table: `names("train", "lr steps")` is `train.lr train.steps`."""
    return " ".join(f"{table}.{name}" for name in text.split())


AI_TOOLKIT: tuple[Row, ...] = (
    *unneeded("type", TEXT, "it is the trainer of ai-toolkit", default="sd_trainer"),
    here("name", TEXT, "--name (output.name); --out is the folder of the run"),
    here("training_folder", TEXT, "--out (out)", remark="the run's folder is TRAINING_FOLDER/NAME"),
    here("device", TEXT, "--device (training.device)", "training.device"),
    *lacking(
        "trigger_word",
        TEXT,
        "captions are read as they are",
        "Write it into them; caption_prefix of a dataset file adds it",
    ),
    *unneeded("performance_log_every", WHOLE, "log.jsonl has the seconds of each step"),
    *unneeded("sqlite_db_path torch_profiler", ANY, "it belongs to ai-toolkit's own interface"),
    # The base
    here("model.name_or_path", TEXT, "--base (base)", "base"),
    here(
        "model.arch", TEXT, "--base (base)", remark="the base says what it is; the translation reads how it is trained"
    ),
    here("model.is_flux", SWITCH, "--base (base)", remark=READ, default=False),
    here("model.is_v3", SWITCH, "--base (base)", remark=READ, default=False),
    here("model.is_xl", SWITCH, "--base (base)", remark=READ, default=False),
    *unneeded(names("model", "is_v2 is_v_pred is_ssd is_vega use_flux_cfg"), SWITCH, READ, default=False),
    *lacking(
        names("model", "is_pixart is_pixart_sigma is_auraflow is_lumina2"),
        SWITCH,
        "bwlab reads such models only with a plugin",
        "Write one: docs/how-to/add-a-model-family.md",
        False,
    ),
    here(
        "model.lora_path",
        TEXT,
        "--initial (adapter.initial)",
        remark="of another trainer: `bwlab merge` folds it into the base",
    ),
    *unneeded(
        names("model", "dtype vae_dtype te_dtype vae_device te_device"),
        TEXT,
        "frozen weights have the precision of the run",
    ),
    here(
        "model.quantize",
        SWITCH,
        "--quantize int8 (training.quantize)",
        remark="nf4 where model.qtype has 2 to 4 bits; otherwise int8, also for 8-bit floats",
    ),
    here("model.qtype", TEXT, "--quantize nf4 or int8 (training.quantize)", remark="with model.quantize"),
    *lacking(
        "model.quantize_te",
        SWITCH,
        "text encoders are not quantised",
        "Cached texts let them leave memory before the first step",
        False,
    ),
    *unneeded("model.qtype_te", ANY, "it only matters with quantize_te"),
    *lacking("model.quantize_kwargs", ANY, "all linear layers of the denoiser are quantised", LEAVE_OUT),
    *lacking(
        names("model", "low_vram layer_offloading auto_memory split_model_over_gpus"),
        SWITCH,
        "everything stays on the device",
        "Use gradient_checkpointing",
        default=False,
    ),
    *unneeded(
        names(
            "model",
            "layer_offloading_transformer_percent layer_offloading_text_encoder_percent "
            "split_model_other_module_param_count_scale cache_size_limit compile_mode compile_fullgraph "
            "compile_dynamic block_compile",
        ),
        ANY,
        "it only matters with another option",
    ),
    here("model.compile", SWITCH, "--set training.compile=true", "training.compile", default=False),
    *lacking(
        names(
            "model",
            "vae_path refiner_name_or_path unet_path te_name_or_path extras_name_or_path model_paths model_kwargs "
            "assistant_lora_path inference_lora_path unconditional_lora_path accuracy_recovery_adapter",
        ),
        ANY,
        "parts are read from the base",
        "Put them into the base's folder",
    ),
    *lacking(
        names(
            "model",
            "refiner_start_at latent_space_version use_text_encoder_1 use_text_encoder_2 experimental_xl "
            "text_encoder_bits unet_sample_size attn_masking ignore_if_contains only_if_contains in_context",
        ),
        ANY,
        "the base is used as it is",
        LEAVE_OUT,
    ),
    # The adapter
    here(
        "network.type",
        TEXT,
        "--adapter (adapter.type)",
        remark="`lora`, with conv `locon`; `lokr` needs bwlab-lycoris",
        default="lora",
    ),
    here(
        "network.linear",
        WHOLE,
        'the rank of the blocks: --blocks "all=16" (adapter.blocks)',
        remark="4 if it is not given",
    ),
    here(
        "network.rank", WHOLE, 'the rank of the blocks: --blocks "all=16" (adapter.blocks)', remark="wins over linear"
    ),
    here(
        "network.linear_alpha",
        NUMBER,
        "--alpha (adapter.alpha)",
        remark="1 if it is not given; here the rank",
        default=1.0,
    ),
    here("network.alpha", NUMBER, "--alpha (adapter.alpha)", default=1.0),
    here("network.conv", WHOLE, 'the rank of resnets: --blocks "all=16", with --adapter locon (adapter.blocks)'),
    here(
        "network.conv_alpha", NUMBER, "--alpha (adapter.alpha)", remark="one number for all layers; conv if not given"
    ),
    here("network.lokr_factor", WHOLE, "--set adapter.options.factor=-1", default=-1),
    here("network.lokr_full_rank", SWITCH, "--set adapter.options.full_matrix=true", default=True),
    here("network.pretrained_lora_path", TEXT, "--initial (adapter.initial)", "adapter.initial"),
    *lacking("network.dropout", NUMBER, "adapters have no dropout", LEAVE_OUT),
    *lacking(
        "network.network_kwargs",
        ANY,
        "layers are chosen by blocks",
        'Give --blocks "double0-6=16" (adapter.blocks)',
        default={},
    ),
    *unneeded(
        "network.transformer_only", SWITCH, "layers outside the blocks get a rank only if --blocks names rest", True
    ),
    *unneeded("network.old_lokr_format", SWITCH, "files have the keys of LyCORIS", default=False),
    *unneeded("network.split_multistage_loras", SWITCH, "no base that bwlab reads has several stages", default=True),
    *lacking(
        "network.lorm network.all_layers network.layer_offloading",
        ANY,
        "it does not train an adapter by blocks",
        LEAVE_OUT,
    ),
    *lacking("adapter decorator slider guidance do_lorm", ANY, "it does not train an adapter by blocks", LEAVE_OUT),
    here("embedding.trigger", TEXT, "--set tokens.words=<fox>", remark="a word that is no token yet"),
    here("embedding.tokens", WHOLE, "--set tokens.vectors=4", default=4),
    here("embedding.init_words", TEXT, "--set tokens.initial=animal", default="*"),
    *unneeded("lorm_extract_mode lorm_extract_mode_param", ANY, "it only matters with do_lorm"),
    *unneeded("embedding.trigger_class_name", TEXT, "it only matters with a prior of masks"),
    *unneeded("embedding.save_format", TEXT, "embeddings are safetensors files"),
    # The data
    here(
        "datasets",
        ANY,
        "--data (data.folder)",
        remark="several folders or resolutions are a dataset file; see the rows below",
    ),
    here("datasets.folder_path", TEXT, "--data (data.folder)"),
    here("datasets.dataset_path", TEXT, "--data (data.folder)"),
    here("datasets.default_caption", TEXT, "--set data.caption=..."),
    here("datasets.caption_ext", TEXT, "--set data.caption_extension=.txt", default=".txt"),
    here(
        "datasets.resolution",
        ANY,
        "--set data.resolution=512",
        remark="several are several datasets of a file",
        default=512,
    ),
    here("datasets.buckets", SWITCH, "--set data.buckets=true", default=True),
    here("datasets.bucket_tolerance", WHOLE, "--set data.bucket_step=64", default=64),
    here("datasets.num_repeats", WHOLE, "--set data.repeats=2", default=1),
    here("datasets.is_reg", SWITCH, "--set regularisation.folder=DIR", default=False),
    here("datasets.caption_dropout_rate", NUMBER, "--set data.caption_dropout=0.1", default=0.0),
    here("datasets.token_dropout_rate", NUMBER, "--set data.tag_dropout=0.1", default=0.0),
    here("datasets.shuffle_tokens", SWITCH, "--set data.shuffle_caption=true", default=False),
    here("datasets.keep_tokens", WHOLE, "--set data.keep_tokens=1", default=0),
    here("datasets.flip_x", SWITCH, "--set data.flip=true", default=False),
    here("datasets.random_crop", SWITCH, "--set data.random_crop=true", default=False),
    here("datasets.trigger_word", TEXT, "--dataset (data.dataset)", remark="as caption_prefix of a dataset file"),
    *lacking("datasets.flip_y", SWITCH, "images are not turned upside down", LEAVE_OUT, default=False),
    *lacking("datasets.random_scale", SWITCH, "images have the size of their bucket", LEAVE_OUT, default=False),
    *lacking(
        "datasets.scale datasets.network_weight datasets.loss_multiplier",
        NUMBER,
        "folders have repeats",
        LEAVE_OUT,
        1.0,
    ),
    *lacking(
        names(
            "datasets",
            "augments augmentations shuffle_augmentations replacements controls extra_values random_triggers "
            "clip_image_augmentations",
        ),
        ANY,
        "images are only mirrored and cropped, and captions only shuffled and dropped",
        "Add changed copies",
        default=[],
    ),
    *lacking(
        names(
            "datasets",
            "control_path control_path_1 control_path_2 control_path_3 inpaint_path mask_path unconditional_path "
            "clip_image_path poi batch_size",
        ),
        ANY,
        "a folder holds images with captions",
        LEAVE_OUT,
    ),
    *lacking(
        names(
            "datasets",
            "alpha_mask invert_mask prior_reg use_short_captions standardize_images square_crop "
            "diff_output_preservation control_from_same_folder clip_image_from_same_folder do_i2v do_audio",
        ),
        SWITCH,
        "the whole image counts, with its caption",
        LEAVE_OUT,
        default=False,
    ),
    *unneeded(names("datasets", "type"), TEXT, "folders hold images", default="image"),
    *unneeded(
        names("datasets", "cache_latents cache_latents_to_disk cache_tensors_to_disk cache_text_embeddings"),
        SWITCH,
        "latents and embeddings of captions are cached on disk",
    ),
    *unneeded(
        names(
            "datasets",
            "cache_clip_vision_to_disk load_image_when_caching_latents num_workers prefetch_factor num_frames "
            "cache_latents_num_workers shrink_video_to_frames fps auto_frame_count trim_auto_frame_count_tail debug "
            "fast_image_size replay_transforms mask_min_value random_triggers_max diff_output_preservation_class "
            "control_transparent_color full_size_control_images num_controls_from_same_folder "
            "clip_image_shuffle_augmentations guidance_type audio_preserve_pitch audio_normalize caption_type",
        ),
        ANY,
        "it changes no training of images here",
    ),
    # Steps and optimiser
    here("train.steps", WHOLE, "--steps (training.steps)", default=1000),
    here("train.batch_size", WHOLE, "--batch-size (training.batch_size)", "training.batch_size", default=1),
    here("train.gradient_accumulation", WHOLE, "--accumulation (training.accumulation)", default=1),
    here(
        "train.gradient_accumulation_steps",
        WHOLE,
        "--accumulation (training.accumulation)",
        remark="it counts each batch as a step",
        default=1,
    ),
    here("train.lr", NUMBER, "--lr (training.lr)", default=1e-6),
    here("train.unet_lr", NUMBER, "--lr (training.lr)"),
    here("train.text_encoder_lr", NUMBER, '--block-lr "te=5e-5" (training.block_lr)'),
    here("train.embedding_lr", NUMBER, "--set tokens.lr=5e-3"),
    here("train.train_unet", SWITCH, '--blocks "all=16" (adapter.blocks)', default=True),
    here("train.train_text_encoder", SWITCH, '--blocks "te=16" (adapter.blocks)', default=False),
    here("train.optimizer", TEXT, "--optimizer (training.optimizer)", default="adamw"),
    here(
        "train.optimizer_params",
        ANY,
        "--set training.weight_decay=0.01 and training.optimizer_options (training.optimizer_options)",
        default={},
    ),
    here("train.lr_scheduler", TEXT, "--schedule (training.schedule)", default="constant"),
    here(
        "train.lr_scheduler_params",
        ANY,
        "--warmup (training.warmup)",
        remark="num_warmup_steps; others are not available",
        default={},
    ),
    here("train.max_grad_norm", NUMBER, "--set training.max_grad_norm=1", "training.max_grad_norm", default=1.0),
    here(
        "train.ema_config",
        ANY,
        "--set training.ema=0.999",
        remark="with use_ema; the decay is 0.999 if it is not given",
    ),
    here("train.gradient_checkpointing", SWITCH, "--set training.gradient_checkpointing=true", default=True),
    here("train.dtype", TEXT, "--precision (training.precision)", default="fp32"),
    here("train.min_snr_gamma", NUMBER, "--set training.min_snr_gamma=5"),
    here("train.noise_offset", NUMBER, "--set training.noise_offset=0.05", "training.noise_offset", default=0.0),
    here("train.reg_weight", NUMBER, "--set regularisation.weight=1", "regularisation.weight", default=1.0),
    here("train.prompt_dropout_prob", NUMBER, "--set data.caption_dropout=0.1", default=0.0),
    here(
        "train.timestep_type",
        TEXT,
        "--set training.timestep_sampling=uniform",
        remark="by flow matching: `linear` is uniform, `sigmoid` logit_normal, both without a shift",
        default="sigmoid",
    ),
    here("train.linear_timesteps", SWITCH, "--set training.timestep_sampling=uniform", default=False),
    here("train.disable_sampling", SWITCH, "--set preview.enabled=false", default=False),
    *unneeded("train.noise_scheduler", TEXT, READ),
    *unneeded("train.skip_first_sample", SWITCH, "the first previews come after some steps", default=False),
    *unneeded(
        names("train", "xformers sdp attention_backend unload_text_encoder cache_text_embeddings"),
        ANY,
        "PyTorch's own attention is used, and embeddings of captions are cached",
    ),
    *lacking("train.snr_gamma", NUMBER, "bwlab does not have this loss weighting", "Use min_snr_gamma"),
    *lacking("train.content_or_style", TEXT, "all timesteps are trained alike", LEAVE_OUT, default="balanced"),
    *lacking("train.loss_type", TEXT, MSE, LEAVE_OUT, default="mse"),
    *lacking("train.loss_target", TEXT, MSE, LEAVE_OUT, default="noise"),
    *lacking("train.min_denoising_steps", WHOLE, "all timesteps are trained", LEAVE_OUT, default=0),
    *lacking("train.max_denoising_steps", WHOLE, "all timesteps are trained", LEAVE_OUT, default=999),
    *lacking("train.num_train_timesteps", WHOLE, "timesteps are those of the base", LEAVE_OUT, default=1000),
    *lacking(
        names(
            "train",
            "noise_multiplier target_noise_multiplier img_multiplier noisy_latent_multiplier latent_multiplier "
            "pred_scaler cfg_scale",
        ),
        NUMBER,
        "noise and images have their own size",
        LEAVE_OUT,
        default=1.0,
    ),
    *lacking(
        names(
            "train",
            "linear_timesteps2 learnable_snr_gos train_turbo show_turbo_outputs force_first_sample "
            "merge_network_on_save free_u do_signal_correction_noise do_batch_noise_correction do_signal_amplification "
            "adaptive_scaling_factor match_noise_norm short_and_long_captions short_and_long_captions_encoder_split "
            "single_item_batching match_adapter_assist inverted_mask_prior diff_output_preservation "
            "blank_prompt_preservation standardize_images standardize_latents dynamic_noise_offset do_cfg "
            "do_random_cfg correct_pred_norm t0_loss_target t0_velocity_equiv_weight do_fft_loss "
            "do_fft_velocity_equiv_weight do_prior_divergence do_paramiter_swapping bypass_guidance_embedding "
            "force_consistent_noise blended_blur_noise do_guidance_loss do_guidance_loss_cfg_zero "
            "do_differential_guidance do_blank_stabilization max_loss_debug target_norm_std",
        ),
        SWITCH,
        MSE,
        LEAVE_OUT,
        default=False,
    ),
    *lacking(
        names(
            "train",
            "refiner_lr adapter_lr train_refiner weight_jitter merge_network_on_save_strength start_step "
            "adapter_assist_name_or_path adapter_assist_type random_noise_multiplier batch_noise_correction_scale "
            "signal_amplification_strength signal_correction_noise_scale random_noise_shift negative_prompt "
            "max_negative_prompts match_adapter_chance inverted_mask_prior_multiplier "
            "diff_output_preservation_multiplier diff_output_preservation_class "
            "blank_prompt_preservation_multiplier max_cfg_scale cfg_rescale correct_pred_norm_multiplier "
            "prompt_saturation_chance target_norm_std_value next_sample_timesteps paramiter_swapping_factor "
            "latent_feature_extractor_path latent_feature_loss_weight diffusion_feature_extractor_path "
            "diffusion_feature_extractor_weight optimal_noise_pairing_samples guidance_loss_target "
            "guidance_loss_schedule unconditional_prompt differential_guidance_scale switch_boundary_every "
            "audio_loss_multiplier max_loss validation_config",
        ),
        ANY,
        MSE,
        LEAVE_OUT,
    ),
    # Files
    here(
        "save.dtype",
        TEXT,
        "--save-dtype (output.dtype)",
        remark="float16 if it is not given; here fp32",
        default="float16",
    ),
    here(
        "save.save_every",
        WHOLE,
        "checkpoints every N steps: --set checkpoint.every=500",
        "checkpoint.every",
        default=1000,
    ),
    here("save.max_step_saves_to_keep", WHOLE, "--set checkpoint.keep=2", "checkpoint.keep", default=5),
    *unneeded("save.save_format", TEXT, "adapters are safetensors files", default="safetensors"),
    *lacking("save.push_to_hub", SWITCH, "nothing is uploaded", "Upload the file with 'hf upload'", default=False),
    *unneeded("save.hf_repo_id save.hf_private", ANY, "nothing is uploaded"),
    # Previews and logs
    here("sample.prompts", ANY, "--set preview.prompts=..."),
    here("sample.samples", ANY, "--set preview.prompts=...", remark="their prompts"),
    here("sample.sample_every", WHOLE, "previews every N steps: --set preview.every=100", "preview.every", default=100),
    here("sample.neg", TEXT, "--set preview.negative=..."),
    here("sample.seed", WHOLE, "--set preview.seed=0", "preview.seed", default=0),
    here("sample.guidance_scale", NUMBER, "--set preview.cfg=7", "preview.cfg", default=7),
    here("sample.sample_steps", WHOLE, "--set preview.steps=20", "preview.steps", default=20),
    here("sample.width", WHOLE, "--set preview.width=1024", "preview.width", default=1024),
    here("sample.height", WHOLE, "--set preview.height=1024", "preview.height", default=1024),
    *unneeded(
        names(
            "sample",
            "sampler sample_start_step network_multiplier guidance_rescale format num_frames "
            "adapter_conditioning_scale refiner_start_at extra_values fps do_cfg_norm ext first_sample",
        ),
        ANY,
        "previews are images by the base's sampler",
    ),
    *unneeded("sample.walk_seed", SWITCH, "seeds of previews always count up"),
    *unneeded("first_sample", ANY, "previews are alike"),
    here("logging.use_wandb", SWITCH, "--set tracking.trackers=wandb", default=False),
    here("logging.project_name", TEXT, "--set tracking.project=foxes", default="ai-toolkit"),
    here("logging.run_name", TEXT, "--set tracking.run=first"),
    *unneeded("logging.log_every logging.verbose logging.use_ui_logger", ANY, "log.jsonl has a line for every step"),
)

OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "lion": "lion",
    "lion8bit": "lion",
    "adafactor": "adafactor",
    "prodigy": "prodigy",
    "prodigy8bit": "prodigy",
}
SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine_restarts",
}
DTYPES = {
    "float": "fp32",
    "float32": "fp32",
    "fp32": "fp32",
    "float16": "fp16",
    "fp16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
}
