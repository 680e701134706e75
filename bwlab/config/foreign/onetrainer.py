"""The keys of OneTrainer's configs (JSON), and of the concepts and samples in them.

Keys of a concept are `concepts.NAME`, those of a sample `samples.NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator

from bwlab.config.foreign.rows import Row, Takes, here, lacking, unneeded

SWITCH, WHOLE, NUMBER, TEXT, ANY = Takes.SWITCH, Takes.WHOLE, Takes.NUMBER, Takes.TEXT, Takes.ANY

LEAVE_OUT = "Leave it out"
OPTION = "--set training.optimizer_options.{} (training.optimizer_options)"
MASKS = "the whole image counts in the loss"
EVERY = "seconds, minutes and hours have no counterpart"

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
DENOISERS = ("unet", "transformer")
OTHER_PARTS = (
    *("prior", "unconditional_transformer", "vae", "effnet_encoder", "decoder", "decoder_text_encoder"),
    "decoder_vqgan",
)


def part(name: str) -> Iterator[Row]:
    """Yield the rows of a part of the model, such as `unet`."""
    encoder, denoiser = name in TEXT_ENCODERS, name in DENOISERS
    if encoder:
        yield here(f"{name}.train", SWITCH, '--blocks "te=16" (adapter.blocks)', default=True)
        yield here(f"{name}.learning_rate", NUMBER, '--block-lr "te=5e-5" (training.block_lr)')
    elif denoiser:
        yield here(f"{name}.train", SWITCH, '--blocks "all=16" (adapter.blocks)', default=True)
        yield here(f"{name}.learning_rate", NUMBER, "--lr (training.lr)")
    else:
        yield from unneeded(f"{name}.train {name}.learning_rate", ANY, "adapters are trained into the denoiser")
    if denoiser:
        yield here(f"{name}.gradient_checkpointing", SWITCH, "--set training.gradient_checkpointing=true", default=True)
    else:
        yield from unneeded(f"{name}.gradient_checkpointing", SWITCH, "the denoiser's counts", default=True)
    yield from lacking(f"{name}.model_name", TEXT, "parts are read from the base", "Put it into the base's folder", "")
    if denoiser:
        yield here(
            f"{name}.weight_dtype",
            TEXT,
            "--quantize nf4 or int8 (training.quantize)",
            remark="nf4 for NFLOAT_4, int8 for INT_8 and 8-bit floats; other weights have the precision of the run",
        )
    else:
        yield from unneeded(f"{name}.weight_dtype", TEXT, "frozen weights are held in the precision of the run")
    yield from unneeded(f"{name}.include", SWITCH, "the base says which parts it has", default=True)
    yield from lacking(f"{name}.stop_training_after", WHOLE, "all parts are trained to the end", LEAVE_OUT)
    yield from unneeded(f"{name}.stop_training_after_unit", TEXT, "all parts are trained to the end", default="NEVER")
    yield from lacking(
        f"{name}.dropout_probability",
        NUMBER,
        "captions are left out for all text encoders at once",
        "Give --set data.caption_dropout=0.1",
        default=0.0,
    )
    yield from unneeded(
        f"{name}.train_embedding", SWITCH, "words are trained where tokens.words names them", default=True
    )
    yield from lacking(f"{name}.attention_mask", SWITCH, "prompts are read as diffusers reads them", LEAVE_OUT, False)
    yield from lacking(f"{name}.guidance_scale", NUMBER, "FLUX.1 dev is trained with a guidance of 1", LEAVE_OUT, 1.0)
    yield from lacking(
        f"{name}.offload_fraction {name}.activation_offloading",
        ANY,
        "everything stays on the device",
        "Use gradient checkpointing",
        default=False,
    )


ONETRAINER: tuple[Row, ...] = (
    # The base and what is trained
    here("base_model_name", TEXT, "--base (base)", "base"),
    here(
        "model_type", TEXT, "--base (base)", remark="the base says what it is; the translation reads how it is trained"
    ),
    here(
        "training_method", TEXT, "--adapter (adapter.type)", remark="LORA, or EMBEDDING (tokens.words)", default="LORA"
    ),
    here(
        "peft_type", TEXT, "--adapter (adapter.type)", remark="LOHA, LOKR and OFT_2 need bwlab-lycoris", default="LORA"
    ),
    here("lora_rank", WHOLE, 'the rank of the blocks: --blocks "all=16" (adapter.blocks)', default=16),
    here("lora_alpha", NUMBER, "--alpha (adapter.alpha)", remark="1 if it is not given; here the rank", default=1.0),
    here("lora_model_name", TEXT, "--initial (adapter.initial)"),
    here("lora_decompose", SWITCH, "--adapter dora (adapter.type)", default=False),
    here("lora_decompose_output_axis", SWITCH, "--set adapter.options.wd_on_output=true", default=False),
    *unneeded("lora_decompose_norm_epsilon", SWITCH, "norms of weights are not 0", default=True),
    here("lokr_dim", WHOLE, '--blocks "all=16" (adapter.blocks)', default=16),
    here("lokr_decompose_both", SWITCH, "--set adapter.options.decompose_both=true", default=False),
    here("lokr_decompose_factor", WHOLE, "--set adapter.options.factor=-1", default=-1),
    here("lokr_use_tucker", SWITCH, "--set adapter.options.use_tucker=true", default=False),
    here("lokr_full_matrix", SWITCH, "--set adapter.options.full_matrix=true", default=False),
    here("lokr_weight_decompose", SWITCH, "--adapter dokr (adapter.type)", default=False),
    here("lokr_dora_on_output", SWITCH, "--set adapter.options.wd_on_output=true", default=True),
    *unneeded("lokr_vec_trick", SWITCH, "it is how LoKr is computed", default=True),
    here("oft_block_size", WHOLE, '--blocks "all=32" (adapter.blocks)', default=32),
    *lacking("oft_block_share oft_scaled", SWITCH, "it is no option of the type oft", LEAVE_OUT, default=False),
    here(
        "layer_filter_preset",
        TEXT,
        "--adapter (adapter.type) and --blocks (adapter.blocks)",
        remark="`attn-mlp` is `lora`, `full` is `locon` without the layers outside the blocks",
        default="full",
    ),
    *lacking(
        "layer_filter", TEXT, "layers are chosen by blocks", 'Give --blocks "upper=16" (bwlab blocks lists them)', ""
    ),
    *unneeded("layer_filter_regex", SWITCH, "it only matters with layer_filter", default=False),
    *unneeded(
        "lora_weight_dtype embedding_weight_dtype", TEXT, "what is trained is kept in float32", default="FLOAT_32"
    ),
    *lacking("dropout_probability", NUMBER, "adapters have no dropout", LEAVE_OUT, default=0.0),
    *(row for name in (*DENOISERS, *TEXT_ENCODERS, *OTHER_PARTS) for row in part(name)),
    here(
        "text_encoder_layer_skip",
        WHOLE,
        "--set training.clip_skip=2",
        remark="layers that are skipped, one less",
        default=0,
    ),
    *lacking(
        "text_encoder_2_layer_skip text_encoder_3_layer_skip text_encoder_4_layer_skip",
        WHOLE,
        "further text encoders are read as the base was trained",
        LEAVE_OUT,
        default=0,
    ),
    *unneeded(
        "text_encoder_sequence_length text_encoder_2_sequence_length",
        WHOLE,
        "prompts are read up to the length of diffusers",
    ),
    *(
        row
        for name, default in (
            *(("layer_filter", ""), ("layer_filter_preset", "full"), ("layer_filter_regex", False)),
            *(("svd_dtype", "NONE"), ("svd_rank", 16), ("cache_dir", None)),
        )
        for row in lacking(f"quantization.{name}", ANY, "all linear layers are quantised", LEAVE_OUT, default)
    ),
    # New words
    here("embedding.placeholder", TEXT, "--set tokens.words=<fox>", remark="with the method EMBEDDING"),
    here("embedding.token_count", WHOLE, "--set tokens.vectors=4"),
    here("embedding.initial_embedding_text", TEXT, "--set tokens.initial=animal"),
    *unneeded("embedding.uuid", TEXT, "it is a name that OneTrainer makes"),
    *unneeded("embedding.train", SWITCH, "the words of tokens.words are trained", default=True),
    *lacking("embedding.model_name", TEXT, "words start from a text", "Give --set tokens.initial=animal", default=""),
    *lacking("embedding.stop_training_after", WHOLE, "words are trained to the end", LEAVE_OUT),
    *unneeded("embedding.stop_training_after_unit", TEXT, "words are trained to the end", default="NEVER"),
    *lacking("embedding.is_output_embedding", SWITCH, "words have input embeddings", LEAVE_OUT, default=False),
    here("embedding_learning_rate", NUMBER, "--set tokens.lr=5e-3", remark="with the method EMBEDDING"),
    *lacking(
        "additional_embeddings",
        ANY,
        "words beside an adapter are named in the settings",
        "Give --set tokens.words=<fox>",
        default=[],
    ),
    *lacking("preserve_embedding_norm", SWITCH, "embeddings may grow", LEAVE_OUT, default=False),
    *unneeded("bundle_additional_embeddings", SWITCH, "each word is a file of its own", default=True),
    # The data
    here("concepts", ANY, "--data (data.folder)", remark="several are a dataset file; see the rows below"),
    here("concept_file_name", TEXT, "--data (data.folder)", remark="the translation reads it"),
    here(
        "resolution", TEXT, "--set data.resolution=512", remark="several are several datasets of a file", default="512"
    ),
    here("aspect_ratio_bucketing", SWITCH, "--set data.buckets=true", default=True),
    *unneeded("latent_caching", SWITCH, "latents are always cached", default=True),
    *unneeded("clear_cache_before_training", SWITCH, "entries of the cache are found by their content", default=True),
    *unneeded("only_cache", SWITCH, "the cache is filled when a run starts", default=False),
    *unneeded("cache_dir", TEXT, "the cache lies in the user's cache folder (data.cache)"),
    *lacking("frames", TEXT, "only images are trained", LEAVE_OUT, default="25"),
    *unneeded("dataloader_threads", WHOLE, "latents lie in memory", default=2),
    *lacking("masked_training", SWITCH, MASKS, "Crop the images to what is to be learned", default=False),
    *unneeded("unmasked_probability unmasked_weight", NUMBER, "it only matters with masked_training", default=0.1),
    *unneeded("normalize_masked_area_loss", SWITCH, "it only matters with masked_training", default=False),
    *unneeded("masked_prior_preservation_weight", NUMBER, "it only matters with masked_training", default=0.0),
    *lacking("custom_conditioning_image", SWITCH, "images have no conditions", LEAVE_OUT, default=False),
    here("concepts.path", TEXT, "--data (data.folder)"),
    here("concepts.enabled", SWITCH, "--data (data.folder)", remark="others are left out", default=True),
    here(
        "concepts.type",
        TEXT,
        "--set regularisation.folder=DIR",
        remark="STANDARD, or PRIOR_PREDICTION",
        default="STANDARD",
    ),
    here("concepts.balancing", NUMBER, "--set data.repeats=2", remark="rounded, at least 1", default=1.0),
    *lacking(
        "concepts.balancing_strategy",
        TEXT,
        "folders have repeats",
        "Choose repeats for --set data.repeats=2",
        "REPEATS",
    ),
    here(
        "concepts.include_subdirectories",
        SWITCH,
        "--data (data.folder)",
        remark="without it, a folder with subfolders is a dataset file",
        default=False,
    ),
    here("concepts.image.enable_random_flip", SWITCH, "--set data.flip=true", default=False),
    here("concepts.image.enable_crop_jitter", SWITCH, "--set data.random_crop=true", default=True),
    here("concepts.text.enable_tag_shuffling", SWITCH, "--set data.shuffle_caption=true", default=False),
    here("concepts.text.keep_tags_count", WHOLE, "--set data.keep_tokens=1", default=1),
    here("concepts.text.tag_dropout_enable", SWITCH, "--set data.tag_dropout=0.1", default=False),
    here("concepts.text.tag_dropout_probability", NUMBER, "--set data.tag_dropout=0.1", default=0.0),
    *lacking("concepts.text.tag_dropout_mode", TEXT, "each tag is left out with one probability", LEAVE_OUT, "FULL"),
    *lacking(
        "concepts.text.prompt_source", TEXT, "captions are read from files beside the images", "Write them", "sample"
    ),
    *unneeded("concepts.text.prompt_path", TEXT, "it only matters with another prompt_source", default=""),
    *unneeded("concepts.name concepts.seed concepts.concept_stats", ANY, "it changes no training"),
    *unneeded(
        "concepts.image_variations concepts.text_variations", WHOLE, "each step has its own variation", default=1
    ),
    *lacking("concepts.loss_weight", NUMBER, "only regularisation images have a weight", LEAVE_OUT, default=1.0),
    *lacking("concepts.text.tag_delimiter", TEXT, "tags are separated by commas", "Write captions with commas", ","),
    *lacking("concepts.text.caps_randomize_enable", SWITCH, "captions are read as they are", LEAVE_OUT, default=False),
    *lacking(
        " ".join(
            f"concepts.image.{name}"
            for name in (
                *("enable_fixed_flip", "enable_random_rotate", "enable_fixed_rotate", "enable_random_brightness"),
                *("enable_fixed_brightness", "enable_random_contrast", "enable_fixed_contrast"),
                *("enable_random_saturation", "enable_fixed_saturation", "enable_random_hue", "enable_fixed_hue"),
                *("enable_random_circular_mask_shrink", "enable_random_mask_rotate_crop"),
            )
        ),
        SWITCH,
        "latents are cached, so images are only mirrored and cropped",
        "Add changed copies of the images",
        default=False,
    ),
    *lacking(
        "concepts.image.enable_resolution_override", SWITCH, "a folder has the resolution of the run", LEAVE_OUT, False
    ),
    *unneeded(
        "concepts.image.random_rotate_max_angle concepts.image.random_brightness_max_strength "
        "concepts.image.random_contrast_max_strength concepts.image.random_saturation_max_strength "
        "concepts.image.random_hue_max_strength concepts.image.resolution_override "
        "concepts.text.caps_randomize_mode concepts.text.caps_randomize_probability "
        "concepts.text.caps_randomize_lowercase concepts.text.tag_dropout_special_tags "
        "concepts.text.tag_dropout_special_tags_regex",
        ANY,
        "it only matters with another key",
    ),
    *lacking(
        "concepts.text.tag_dropout_special_tags_mode", TEXT, "tags are left out alike", "Use keep_tags_count", "NONE"
    ),
    # Steps and optimiser
    here("epochs", WHOLE, "--epochs (training.epochs)", "training.epochs", default=100),
    here("batch_size", WHOLE, "--batch-size (training.batch_size)", "training.batch_size", default=1),
    here(
        "gradient_accumulation_steps",
        WHOLE,
        "--accumulation (training.accumulation)",
        "training.accumulation",
        default=1,
    ),
    here("learning_rate", NUMBER, "--lr (training.lr)", default=3e-6),
    here("learning_rate_scheduler", TEXT, "--schedule (training.schedule)", default="CONSTANT"),
    here(
        "learning_rate_warmup_steps",
        NUMBER,
        "--warmup (training.warmup)",
        remark="up to 1 it is a share; OneTrainer counts batches",
        default=200.0,
    ),
    here("learning_rate_cycles", NUMBER, "--set training.cycles=2", remark="of COSINE_WITH_HARD_RESTARTS", default=1.0),
    *lacking("learning_rate_min_factor", NUMBER, "schedules end at 0", LEAVE_OUT, default=0.0),
    *lacking("learning_rate_scaler", TEXT, "rates are what they say", "Multiply --lr yourself", default="NONE"),
    *lacking("custom_learning_rate_scheduler", TEXT, "schedules are those that --schedule names", LEAVE_OUT),
    *unneeded("scheduler_params", ANY, "it only matters with a custom scheduler", default=[]),
    here("optimizer.optimizer", TEXT, "--optimizer (training.optimizer)", default="ADAMW"),
    here("optimizer.weight_decay", NUMBER, "--set training.weight_decay=0.01", "training.weight_decay"),
    here("optimizer.beta1", NUMBER, OPTION.format("betas"), remark="with beta2"),
    here("optimizer.beta2", NUMBER, OPTION.format("betas"), remark="with beta1"),
    *(
        here(f"optimizer.{name}", ANY, OPTION.format(name), remark="of the optimisers that have it")
        for name in (
            *("beta3", "eps", "amsgrad", "clip_threshold", "decay_rate", "scale_parameter", "d0", "d_coef", "decouple"),
            *("use_bias_correction", "safeguard_warmup", "growth_rate", "min_8bit_size"),
        )
    ),
    *lacking(
        "optimizer.relative_step optimizer.warmup_init",
        SWITCH,
        "adafactor takes the rate of --lr",
        "Give --lr",
        default=False,
    ),
    *unneeded(
        "optimizer.fused optimizer.fused_back_pass optimizer.capturable optimizer.foreach", SWITCH, "it only saves time"
    ),
    *lacking(
        " ".join(
            f"optimizer.{name}"
            for name in (
                *("adam_w_mode", "alpha", "bias_correction", "block_wise", "centered", "dampening", "differentiable"),
                *("eps2", "fsdp_in_use", "initial_accumulator_value", "initial_accumulator", "is_paged", "log_every"),
                *("lr_decay", "max_unorm", "maximize", "quant_block_size", "momentum", "nesterov", "no_prox"),
                *("optim_bits", "percentile_clipping", "r", "use_triton", "weight_lr_power", "decoupled_decay"),
                *("fixed_decay", "weight_decouple", "rectify", "degenerated_to_sgd", "k", "xi", "n_sma_threshold"),
                *("ams_bound", "adanorm", "adam_debias", "slice_p", "cautious", "prodigy_steps", "use_speed"),
                *("use_cautious", "use_grams", "use_adopt", "use_orthograd", "nnmf_factor", "orthogonal_gradient"),
                *("use_atan2", "use_AdEMAMix", "beta3_ema", "alpha_grad", "beta1_warmup", "min_beta1"),
                *("Simplified_AdEMAMix", "kourkoutas_beta", "schedulefree_c", "ns_steps", "MuonWithAuxAdam"),
                *("muon_hidden_layers", "muon_adam_regex", "muon_adam_lr", "muon_te1_adam_lr", "muon_te2_adam_lr"),
                *("normuon_variant", "beta2_normuon", "low_rank_ortho", "ortho_rank", "accelerated_ns"),
                *("cautious_wd", "approx_mars", "auto_kappa_p", "compile"),
            )
        ),
        ANY,
        "it is no option of bwlab's optimisers",
        LEAVE_OUT,
        default=False,
    ),
    *lacking(
        " ".join(
            f"optimizer.{name}"
            for name in (
                *("stochastic_rounding", "weight_decay_by_lr", "split_groups", "split_groups_mean", "factored"),
                *("factored_fp32", "use_stableadamw", "d_limiter", "use_schedulefree", "rms_rescaling"),
            )
        ),
        SWITCH,
        "it is no option of bwlab's optimisers",
        LEAVE_OUT,
        default=True,
    ),
    *unneeded("optimizer.muon_adam_config", ANY, "it only matters with MUON", default={}),
    *unneeded("optimizer_defaults", ANY, "they are what OneTrainer remembers of other optimisers", default={}),
    here("clip_grad_norm", NUMBER, "--set training.max_grad_norm=1", default=1.0),
    here("ema", TEXT, "--set training.ema=0.999", remark="GPU or CPU", default="OFF"),
    here("ema_decay", NUMBER, "--set training.ema=0.999", default=0.999),
    here(
        "ema_update_step_interval",
        WHOLE,
        "--set training.ema=0.999",
        remark="the decay of one step is the root of ema_decay",
        default=5,
    ),
    # The loss
    here(
        "loss_weight_fn", TEXT, "--set training.min_snr_gamma=5", remark="MIN_SNR_GAMMA or CONSTANT", default="CONSTANT"
    ),
    here("loss_weight_strength", NUMBER, "--set training.min_snr_gamma=5", default=5.0),
    here("offset_noise_weight", NUMBER, "--set training.noise_offset=0.05", "training.noise_offset", default=0.0),
    here(
        "timestep_distribution",
        TEXT,
        "--set training.timestep_sampling=uniform",
        remark="UNIFORM, or by flow matching LOGIT_NORMAL",
        default="UNIFORM",
    ),
    here("timestep_shift", NUMBER, "--set training.timestep_shift=1", remark="by flow matching", default=1.0),
    here(
        "dynamic_timestep_shifting",
        SWITCH,
        "--set training.timestep_shift=3",
        remark="that of the base's scheduler, if it is not set",
        default=False,
    ),
    *lacking("generalized_offset_noise", SWITCH, "the offset is the same at all timesteps", LEAVE_OUT, default=False),
    *lacking("mse_strength", NUMBER, "the loss is the mean squared error", LEAVE_OUT, default=1.0),
    *lacking(
        "mae_strength log_cosh_strength huber_strength", NUMBER, "the loss is the mean squared error", LEAVE_OUT, 0.0
    ),
    *unneeded("huber_delta", NUMBER, "it only matters with huber_strength", default=1.0),
    *unneeded("vb_loss_strength", NUMBER, "no base that bwlab reads learns its variance", default=1.0),
    *lacking("loss_scaler", TEXT, "the loss is a mean", "Raise --lr instead", default="NONE"),
    *lacking("perturbation_noise_weight", NUMBER, "the input gets no further noise", LEAVE_OUT, default=0.0),
    *lacking(
        "min_noising_strength noising_weight noising_bias", NUMBER, "all timesteps are trained alike", LEAVE_OUT, 0.0
    ),
    *lacking("max_noising_strength", NUMBER, "all timesteps are trained", LEAVE_OUT, default=1.0),
    *lacking(
        "rescale_noise_scheduler_to_zero_terminal_snr",
        SWITCH,
        "the noise schedule is that of the base",
        LEAVE_OUT,
        False,
    ),
    *lacking(
        "force_v_prediction force_epsilon_prediction",
        SWITCH,
        "the base says what it predicts",
        "Write it beside the base: docs/bases.md",
        default=False,
    ),
    *lacking("force_circular_padding", SWITCH, "convolutions are those of the base", LEAVE_OUT, default=False),
    # Precision and memory
    here("train_dtype", TEXT, "--precision (training.precision)", default="FLOAT_16"),
    *unneeded("fallback_train_dtype", TEXT, "the precision is one for all", default="BFLOAT_16"),
    here("train_device", TEXT, "--device (training.device)"),
    *unneeded("temp_device", TEXT, "models stay on the device", default="cpu"),
    *unneeded("enable_autocast_cache", SWITCH, "it is PyTorch's default", default=True),
    *unneeded("attention_mechanism", TEXT, "PyTorch's own attention is used", default="SDP"),
    *unneeded("async_offloading", SWITCH, "everything stays on the device", default=True),
    here("compile", SWITCH, "--set training.compile=true", "training.compile", default=False),
    *lacking(
        "multi_gpu", SWITCH, "one process trains", "Start several: accelerate launch --multi_gpu ... -m bwlab", False
    ),
    *unneeded("device_indexes", TEXT, "it only matters with multi_gpu", default=""),
    *unneeded("gradient_reduce_precision", TEXT, "it only matters with multi_gpu", default="FLOAT_32_STOCHASTIC"),
    *unneeded("fused_gradient_reduce async_gradient_reduce", SWITCH, "it only matters with multi_gpu", default=True),
    *unneeded("async_gradient_reduce_buffer", WHOLE, "it only matters with multi_gpu", default=100),
    # Files
    here(
        "output_model_destination",
        TEXT,
        "--out (out) and --name (output.name)",
        remark="`models/fox.safetensors` is the folder models/fox with fox.safetensors",
    ),
    here("output_dtype", TEXT, "--save-dtype (output.dtype)", default="FLOAT_32"),
    *unneeded("output_model_format", TEXT, "'bwlab convert' writes other forms of the file"),
    here("save_every", NUMBER, "--set checkpoint.every=500", remark=f"in steps or epochs; {EVERY}", default=0),
    here("save_every_unit", TEXT, "--set checkpoint.every_epochs=1", default="NEVER"),
    *unneeded("save_skip_first", WHOLE, "checkpoints come in even intervals", default=0),
    *unneeded("save_filename_prefix", TEXT, "files are named after --name", default=""),
    *unneeded("backup_after backup_after_unit rolling_backup rolling_backup_count", ANY, "checkpoints are the backups"),
    *unneeded("backup_before_save", SWITCH, "checkpoints are the backups", default=True),
    *unneeded("continue_last_backup", SWITCH, "--resume continues a run", default=False),
    *unneeded("prevent_overwrites", SWITCH, "a run is replaced with --overwrite only", default=False),
    *unneeded("include_train_config", TEXT, "the file's metadata hold all settings", default="NONE"),
    *unneeded("workspace_dir debug_dir huggingface_cache_dir", TEXT, "a run has one folder, --out"),
    *unneeded("debug_mode offline_mode", SWITCH, "nothing is to be set for it", default=False),
    # Previews, validation and logs
    here("samples", ANY, "--set preview.prompts=...", remark="size, steps, guidance and seed are those of the first"),
    here("sample_definition_file_name", TEXT, "--set preview.prompts=...", remark="the translation reads it"),
    here("sample_after", NUMBER, "--set preview.every=100", remark=f"in steps or epochs; {EVERY}", default=10),
    here("sample_after_unit", TEXT, "--set preview.every_epochs=1", default="MINUTE"),
    *unneeded("sample_skip_first", WHOLE, "previews come in even intervals", default=0),
    *unneeded("sample_image_format sample_video_format sample_audio_format", TEXT, "previews are PNG files"),
    *unneeded("samples_to_tensorboard", SWITCH, "previews are files", default=True),
    *unneeded("non_ema_sampling", SWITCH, "previews show what is saved", default=True),
    here("samples.prompt", TEXT, "--set preview.prompts=..."),
    here("samples.enabled", SWITCH, "--set preview.prompts=...", remark="others are left out", default=True),
    here("samples.negative_prompt", TEXT, "--set preview.negative=..."),
    here("samples.seed", WHOLE, "--set preview.seed=0"),
    here("samples.diffusion_steps", WHOLE, "--set preview.steps=25"),
    here("samples.cfg_scale", NUMBER, "--set preview.cfg=7"),
    here("samples.width", WHOLE, "--set preview.width=1024"),
    here("samples.height", WHOLE, "--set preview.height=1024"),
    *unneeded("samples.frames samples.length", ANY, "previews are images"),
    *unneeded(
        "samples.sample_inpainting samples.base_image_path samples.mask_image_path samples.force_last_timestep "
        "samples.text_encoder_1_layer_skip samples.text_encoder_1_sequence_length "
        "samples.text_encoder_2_layer_skip samples.text_encoder_2_sequence_length "
        "samples.text_encoder_3_layer_skip samples.text_encoder_4_layer_skip samples.transformer_attention_mask",
        ANY,
        "previews are made as the base and the training say",
    ),
    *unneeded("samples.random_seed", SWITCH, "previews are to be compared, so seeds stay", default=False),
    *unneeded("samples.noise_scheduler", TEXT, "previews use the sampler that suits the base"),
    *lacking("validation", SWITCH, "no images are held out", "Use 'bwlab analyze fidelity' afterwards", default=False),
    *unneeded("validate_after validate_after_unit", ANY, "it only matters with validation"),
    here("tensorboard", SWITCH, "--set tracking.trackers=tensorboard", default=True),
    *unneeded("tensorboard_expose tensorboard_always_on", SWITCH, "'tensorboard --logdir OUT' shows the logs", False),
    *unneeded("tensorboard_port", ANY, "'tensorboard --logdir OUT' shows the logs", default=6006),
    *unneeded("cloud secrets", ANY, "bwlab trains where it is started"),
)

OPTIMIZERS = {
    "ADAMW": "adamw",
    "ADAMW_8BIT": "adamw8bit",
    "LION": "lion",
    "LION_8BIT": "lion",
    "ADAFACTOR": "adafactor",
    "PRODIGY": "prodigy",
}
SCHEDULES = {
    "CONSTANT": "constant",
    "LINEAR": "linear",
    "COSINE": "cosine",
    "COSINE_WITH_HARD_RESTARTS": "cosine_restarts",
}
DTYPES = {"FLOAT_32": "fp32", "TFLOAT_32": "fp32", "BFLOAT_16": "bf16", "FLOAT_16": "fp16"}
