"""The options of kohya's sd-scripts: train_network.py, and the same for SDXL, Stable Diffusion 3 and FLUX.1.

Options of a network (`--network_args`) are `network_args.NAME`; those of the program that starts a script, which stand
before its name, are `launch.NAME`.
"""

from __future__ import annotations

from bwlab.config.foreign.rows import Row, Takes, here, lacking, unneeded

SWITCH, WHOLE, NUMBER, TEXT, TEXTS = Takes.SWITCH, Takes.WHOLE, Takes.NUMBER, Takes.TEXT, Takes.TEXTS

RANK = 'the rank of the blocks: --blocks "all=16" (adapter.blocks)'
LIST = "'bwlab blocks --from kohya LIST' writes the same as a block spec"
SUBSETS = "Give it in a dataset file with --dataset: docs/data.md"
PART = "it is read from the folder of the base's pipeline"
NO_DROPOUT = "adapters have no dropout"
LEAVE_OUT = "Leave it out"

KOHYA: tuple[Row, ...] = (
    # The base
    here("pretrained_model_name_or_path", TEXT, "--base (base)", "base"),
    *unneeded("v2 v_parameterization", SWITCH, "it is read from the base"),
    *unneeded("tokenizer_cache_dir", TEXT, "tokenizers are part of the base, or of open_clip"),
    *unneeded("clip_l clip_g t5xxl ae", TEXT, PART),
    *lacking("vae", TEXT, "the base's own autoencoder is used", "Put the autoencoder into the base's folder"),
    *unneeded("no_half_vae", SWITCH, "the autoencoder always computes in float32"),
    *unneeded("lowram highvram", SWITCH, "models are loaded once"),
    *unneeded("disable_mmap_load_safetensors", SWITCH, "it only changes how fast files are read"),
    *lacking("model_type", TEXT, "Chroma is read as adapter files, but not as a base", LEAVE_OUT, default="flux"),
    *lacking("controlnet_model_name_or_path", TEXT, "adapters are trained without a ControlNet", LEAVE_OUT),
    *lacking(
        "base_weights", TEXTS, "the base is trained as it is", "Fold the adapters into it first: bwlab merge --help"
    ),
    *lacking("base_weights_multiplier", TEXTS, "the base is trained as it is", "Fold the adapters into it first"),
    # The adapter
    here(
        "network_module", TEXT, "--adapter (adapter.type)", remark="`networks.lora` is `lora`, or `locon` with conv_dim"
    ),
    here("network_dim", WHOLE, RANK, remark="4 if it is not given"),
    here("network_alpha", NUMBER, "--alpha (adapter.alpha)", "adapter.alpha", "1 if it is not given; here the rank", 1),
    here("network_weights", TEXT, "--initial (adapter.initial)", "adapter.initial"),
    here(
        "network_args",
        TEXTS,
        "an adapter type's own options (adapter.options)",
        remark="see the rows below; an algorithm of LyCORIS is an adapter type",
    ),
    here(
        "network_train_unet_only",
        SWITCH,
        "what happens unless --blocks names te",
        remark="kohya's trainer trains the text encoder unless this is given; bwlab only if `te` has a rank, so the "
        "translation gives it one",
    ),
    here("network_train_text_encoder_only", SWITCH, '--blocks "te=8" (adapter.blocks)'),
    *lacking("network_dropout", NUMBER, NO_DROPOUT, LEAVE_OUT),
    *lacking(
        "dim_from_weights",
        SWITCH,
        "ranks are given, not found",
        "Give --blocks with the ranks that 'bwlab inspect FILE' shows",
    ),
    *lacking("scale_weight_norms", NUMBER, "weights are not rescaled", "Lower --lr, or limit gradients"),
    here("network_args.conv_dim", WHOLE, f"{RANK[:-17]}, with --adapter locon (adapter.blocks)"),
    here(
        "network_args.conv_alpha",
        NUMBER,
        "--alpha (adapter.alpha)",
        remark="one number for all layers; if not given 1, in LyCORIS network_alpha",
    ),
    here("network_args.block_dims", TEXT, 'a rank for each block: --blocks "upper=16, mid=4" (adapter.blocks)'),
    here(
        "network_args.block_alphas",
        TEXT,
        "--alpha (adapter.alpha)",
        remark="only if all are equal, or each is the rank of its block",
    ),
    *lacking(
        "network_args.conv_block_dims network_args.conv_block_alphas",
        TEXT,
        "convolutions have the rank of their block",
        f"Give the ranks with --blocks; {LIST}",
    ),
    *(
        here(
            f"network_args.{name}_lr_weight",
            TEXT,
            f'--block-lr "{example}" (training.block_lr), as learning rates',
            remark="a block whose weight is 0 gets no rank",
        )
        for name, example in (
            ("down", "lower=5e-5, upper=1e-4"),
            ("mid", "mid=5e-5"),
            ("up", "lower=5e-5, upper=1e-4"),
        )
    ),
    here("network_args.block_lr_zero_threshold", NUMBER, "--block-lr (training.block_lr)"),
    *lacking("network_args.rank_dropout network_args.module_dropout", NUMBER, NO_DROPOUT, LEAVE_OUT),
    *lacking(
        "network_args.loraplus_lr_ratio network_args.loraplus_unet_lr_ratio "
        "network_args.loraplus_text_encoder_lr_ratio",
        NUMBER,
        "both matrices of a layer have one learning rate (LoRA+ gives the up matrix a greater one)",
        "Raise --lr",
    ),
    here(
        "network_args.algo",
        TEXT,
        "--adapter (adapter.type), of the plugin bwlab-lycoris",
        remark="`lora` and `locon` are `locon`, `diag-oft` is `oft`; with dora_wd `dora`, `doha`, `dokr`",
    ),
    here("network_args.dora_wd", SWITCH, "--adapter dora (adapter.type), or doha, dokr"),
    here("network_args.preset", TEXT, '--adapter (adapter.type) and --blocks "all=16" (adapter.blocks)'),
    *(
        here(
            f"network_args.{name}",
            Takes.ANY,
            f"--set adapter.options.{name}=...",
            remark="for the types of bwlab-lycoris that have it",
        )
        for name in (
            "factor",
            "decompose_both",
            "full_matrix",
            "unbalanced_factorization",
            "use_tucker",
            "constraint",
            "rescaled",
            "wd_on_output",
            "train_on_input",
        )
    ),
    *lacking(
        "network_args.train_norm network_args.bypass_mode network_args.rs_lora network_args.use_scalar "
        "network_args.block_size network_args.disable_conv_cp network_args.dropout",
        Takes.ANY,
        "it is an option of LyCORIS that bwlab-lycoris lacks",
        LEAVE_OUT,
    ),
    here("network_args.train_blocks", TEXT, '--blocks "double0-18=16" (adapter.blocks)', default="all"),
    here("network_args.train_double_block_indices", TEXT, '--blocks "double0-6=16" (adapter.blocks)', default="all"),
    here("network_args.train_single_block_indices", TEXT, '--blocks "single0-6=16" (adapter.blocks)', default="all"),
    here("network_args.train_block_indices", TEXT, '--blocks "joint0-6=16" (adapter.blocks)', default="all"),
    here("network_args.train_t5xxl", SWITCH, '--blocks "te2=16" (adapter.blocks), for Stable Diffusion 3 te3'),
    *lacking(
        " ".join(
            f"network_args.{name}_dim"
            for name in (
                *("img_attn", "txt_attn", "img_mlp", "txt_mlp", "img_mod", "txt_mod", "single", "single_mod"),
                *("context_attn", "context_mlp", "context_mod", "x_attn", "x_mlp", "x_mod"),
            )
        ),
        WHOLE,
        "ranks are given to streams and to modulation, not to attention and MLP apart",
        'Give --blocks "double0.image=16, modulation=4"',
    ),
    *lacking(
        "network_args.in_dims network_args.emb_dims", TEXT, "ranks of embedders have names", 'Give --blocks "rest=4"'
    ),
    *unneeded("network_args.split_qkv", SWITCH, "queries, keys and values are always adapted separately"),
    *unneeded("network_args.verbose", SWITCH, "it only prints"),
    *lacking(
        "network_args.ggpo_beta network_args.ggpo_sigma",
        NUMBER,
        "there are no random perturbations of the weights",
        LEAVE_OUT,
    ),
    *lacking(
        "network_args.network_reg_dims network_args.network_reg_lrs",
        TEXT,
        "ranks are given to blocks, not to modules by regular expressions",
        "Give --blocks and --block-lr",
    ),
    # The data
    here(
        "train_data_dir",
        TEXT,
        "--data (data.folder)",
        "data.folder",
        "folders named `10_fox` have the same meaning; images in other folders are trained too, which kohya's trainer "
        "leaves out",
    ),
    here("dataset_config", TEXT, "--dataset (data.dataset)", "data.dataset"),
    here("reg_data_dir", TEXT, "--set regularisation.folder=DIR", "regularisation.folder"),
    here("prior_loss_weight", NUMBER, "--set regularisation.weight=1", "regularisation.weight"),
    here(
        "resolution",
        TEXT,
        "--set data.resolution=512",
        remark="`512,512` is 512; another shape than a square needs a dataset file",
    ),
    here(
        "caption_extension",
        TEXT,
        "--set data.caption_extension=.txt",
        remark="`.caption` if it is not given; here `.txt`",
    ),
    here("caption_extention", TEXT, "--set data.caption_extension=.txt"),
    here("shuffle_caption", SWITCH, "--set data.shuffle_caption=true", "data.shuffle_caption"),
    here("keep_tokens", WHOLE, "--set data.keep_tokens=1", "data.keep_tokens"),
    here("caption_dropout_rate", NUMBER, "--set data.caption_dropout=0.1", "data.caption_dropout"),
    here("caption_tag_dropout_rate", NUMBER, "--set data.tag_dropout=0.1", "data.tag_dropout"),
    here("flip_aug", SWITCH, "--set data.flip=true", "data.flip"),
    here("random_crop", SWITCH, "--set data.random_crop=true", "data.random_crop"),
    here("enable_bucket", SWITCH, "--set data.buckets=true", "data.buckets"),
    here("min_bucket_reso", WHOLE, "--set data.bucket_min=256", remark="256 if it is not given", default=256),
    here("max_bucket_reso", WHOLE, "--set data.bucket_max=1024", remark="1024 if it is not given", default=1024),
    here("bucket_reso_steps", WHOLE, "--set data.bucket_step=64", default=64),
    here("bucket_no_upscale", SWITCH, "--set data.upscale=false", remark="the same buckets"),
    here("max_token_length", WHOLE, "--set data.max_tokens=150", "data.max_tokens"),
    *lacking("caption_dropout_every_n_epochs", WHOLE, "a folder has no such setting", SUBSETS, default=0),
    *lacking("caption_prefix caption_suffix", TEXT, "a folder has no such setting", SUBSETS),
    *lacking("caption_separator", TEXT, "tags are separated by commas", "Write captions with commas", default=","),
    *lacking("keep_tokens_separator", TEXT, "leading tags are counted", "Use keep_tokens", default=""),
    *lacking("secondary_separator", TEXT, "tags are separated by commas only", "Write captions with commas"),
    *lacking("enable_wildcard", SWITCH, "captions are read as they are", "Write the captions out"),
    *lacking("weighted_captions", SWITCH, "captions have no weights in training", LEAVE_OUT),
    *lacking("token_warmup_min", WHOLE, "captions have all their tags from the start", LEAVE_OUT, default=1),
    *lacking("token_warmup_step", NUMBER, "captions have all their tags from the start", LEAVE_OUT, default=0),
    *lacking(
        "color_aug", SWITCH, "latents are cached, so colours stay as they are", "Add changed copies of the images"
    ),
    *lacking("face_crop_aug_range", TEXT, "faces are not looked for", "Use random_crop"),
    *lacking("resize_interpolation", TEXT, "images are always resized with Lanczos", LEAVE_OUT, default="lanczos"),
    *lacking(
        "alpha_mask masked_loss",
        SWITCH,
        "the whole image counts in the loss",
        "Crop the images to what is to be learned",
    ),
    *lacking("conditioning_data_dir", TEXT, "there are no masks and ControlNets are not trained", LEAVE_OUT),
    *lacking("in_json", TEXT, "captions are read from text files", "Write captions beside the images, and give --data"),
    *lacking("dataset_class", TEXT, "images are read from folders", "Give --data or --dataset"),
    *unneeded(
        "dataset_repeats", WHOLE, "it only matters with in_json; --set data.repeats=N repeats a folder", default=1
    ),
    *unneeded("cache_info", SWITCH, "it only changes how fast kohya's trainer starts"),
    *unneeded("debug_dataset", SWITCH, "'bwlab data check' shows what would be trained"),
    *unneeded("cache_latents", SWITCH, "latents are always cached"),
    *unneeded("cache_latents_to_disk", SWITCH, "latents are always cached on disk (data.cache)"),
    *unneeded("cache_text_encoder_outputs", SWITCH, "embeddings of captions are cached wherever they do not change"),
    *unneeded("cache_text_encoder_outputs_to_disk", SWITCH, "embeddings of captions are cached on disk"),
    *unneeded("vae_batch_size text_encoder_batch_size", WHOLE, "the cache is filled one by one"),
    *unneeded("skip_cache_check", SWITCH, "entries of the cache have checksums, and checking them takes no time"),
    *unneeded("max_data_loader_n_workers", WHOLE, "latents lie in memory"),
    *unneeded("persistent_data_loader_workers", SWITCH, "latents lie in memory"),
    # Steps and optimiser
    here("max_train_steps", WHOLE, "--steps (training.steps)", remark="1600 if it is not given"),
    here("max_train_epochs", WHOLE, "--epochs (training.epochs)", remark="wins over max_train_steps"),
    here(
        "train_batch_size",
        WHOLE,
        "--batch-size (training.batch_size)",
        "training.batch_size",
        "1 if it is not given",
        1,
    ),
    here("gradient_accumulation_steps", WHOLE, "--accumulation (training.accumulation)", "training.accumulation"),
    here("learning_rate", NUMBER, "--lr (training.lr)", remark="2e-6 if neither this nor unet_lr is given"),
    here("unet_lr", NUMBER, "--lr (training.lr)", remark="wins over learning_rate"),
    here(
        "text_encoder_lr",
        TEXTS,
        'a learning rate of its own: --block-lr "te=5e-5" (training.block_lr)',
        remark="0 leaves the text encoder out; several are those of `te1`, `te2` and `te3`",
    ),
    here("optimizer_type", TEXT, "--optimizer (training.optimizer)", remark="see below"),
    here("use_8bit_adam", SWITCH, "--optimizer adamw8bit (training.optimizer)"),
    here("use_lion_optimizer", SWITCH, "--optimizer lion (training.optimizer)"),
    here(
        "optimizer_args",
        TEXTS,
        "--set training.weight_decay=0.01 and training.optimizer_options (training.optimizer_options)",
        remark="where bwlab's defaults differ from kohya's, the translation gives those of kohya",
    ),
    here("lr_scheduler", TEXT, "--schedule (training.schedule)", remark="see below"),
    here("lr_scheduler_num_cycles", WHOLE, "--set training.cycles=2", "training.cycles", "of cosine_with_restarts", 1),
    here(
        "lr_warmup_steps",
        NUMBER,
        "--warmup (training.warmup)",
        remark="below 1 it is a share of all steps: `training.warmup_share`",
    ),
    *lacking("lr_scheduler_type", TEXT, "schedules are those that --schedule names", "Give --schedule beside it"),
    *lacking("lr_scheduler_args", TEXTS, "schedules have no further options", LEAVE_OUT),
    *lacking(
        "lr_decay_steps", NUMBER, "there is no schedule with a decay of its own", "Use --schedule cosine", default=0
    ),
    *lacking("lr_scheduler_power", NUMBER, "the power of `polynomial` is 1", LEAVE_OUT, default=1),
    *lacking("lr_scheduler_timescale", WHOLE, "there is no schedule inverse_sqrt", LEAVE_OUT),
    *lacking("lr_scheduler_min_lr_ratio", NUMBER, "schedules end at 0", LEAVE_OUT),
    here("max_grad_norm", NUMBER, "--set training.max_grad_norm=1", "training.max_grad_norm"),
    *unneeded("fused_backward_pass", SWITCH, "an adapter's gradients are small"),
    here(
        "seed",
        WHOLE,
        "--seed (training.seed)",
        "training.seed",
        "drawn at random if it is not given; here 0, each time the same",
    ),
    *lacking("initial_epoch initial_step", WHOLE, "a run starts at its first step", "Continue a run with --resume"),
    *unneeded("skip_until_initial_step", SWITCH, "it only matters with initial_step"),
    # The loss
    here("min_snr_gamma", NUMBER, "--set training.min_snr_gamma=5", remark="not by flow matching"),
    here("noise_offset", NUMBER, "--set training.noise_offset=0.05", "training.noise_offset"),
    here(
        "clip_skip",
        WHOLE,
        "--set training.clip_skip=2",
        remark="not for SDXL, for which kohya's trainer ignores it too",
    ),
    *lacking("noise_offset_random_strength", SWITCH, "the offset has one strength", LEAVE_OUT),
    *lacking("adaptive_noise_scale", NUMBER, "the offset does not depend on the image", "Use noise_offset"),
    *lacking("multires_noise_iterations", WHOLE, "noise has one resolution", "Use noise_offset"),
    *lacking("multires_noise_discount", NUMBER, "noise has one resolution", LEAVE_OUT, default=0.3),
    *lacking("ip_noise_gamma", NUMBER, "the input gets no noise beside that of its timestep", LEAVE_OUT),
    *lacking("ip_noise_gamma_random_strength", SWITCH, "the input gets no further noise", LEAVE_OUT),
    *lacking("zero_terminal_snr", SWITCH, "the noise schedule is that of the base", "Use a base that has it"),
    *lacking("min_timestep", WHOLE, "all timesteps are trained", LEAVE_OUT, default=0),
    *lacking("max_timestep", WHOLE, "all timesteps are trained", LEAVE_OUT, default=1000),
    *lacking("loss_type", TEXT, "the loss is the mean squared error", LEAVE_OUT, default="l2"),
    *lacking("huber_schedule", TEXT, "the loss is the mean squared error", LEAVE_OUT, default="snr"),
    *lacking("huber_c", NUMBER, "the loss is the mean squared error", LEAVE_OUT, default=0.1),
    *lacking("huber_scale", NUMBER, "the loss is the mean squared error", LEAVE_OUT, default=1),
    *lacking(
        "scale_v_pred_loss_like_noise_pred", SWITCH, "bwlab does not have this loss weighting", "Use min_snr_gamma"
    ),
    *lacking("v_pred_like_loss", NUMBER, "bwlab does not have this loss weighting", "Use min_snr_gamma"),
    *lacking("debiased_estimation_loss", SWITCH, "bwlab does not have this loss weighting", "Use min_snr_gamma"),
    # Flow matching: Stable Diffusion 3 and FLUX.1
    here(
        "timestep_sampling",
        TEXT,
        "--set training.timestep_sampling=uniform",
        remark="with discrete_flow_shift: `sigma` and `uniform` are `uniform`; `sigmoid`, `shift` and `flux_shift` are "
        "`logit_normal`",
        default="sigma",
    ),
    here(
        "discrete_flow_shift",
        NUMBER,
        "--set training.timestep_shift=3",
        remark="3 if it is not given; of `sigma` and `shift`",
        default=3,
    ),
    here("training_shift", NUMBER, "--set training.timestep_shift=1", remark="1 if it is not given", default=1),
    here("weighting_scheme", TEXT, "--set training.timestep_sampling=logit_normal", default="uniform"),
    *lacking("logit_mean", NUMBER, "the logit-normal distribution has mean 0", "Use timestep_shift", default=0),
    *lacking("logit_std sigmoid_scale", NUMBER, "the logit-normal distribution has deviation 1", LEAVE_OUT, default=1),
    *lacking("mode_scale", NUMBER, "times are drawn uniformly or logit-normally", LEAVE_OUT, default=1.29),
    *lacking(
        "guidance_scale",
        NUMBER,
        "FLUX.1 dev is trained with a guidance of 1, as kohya's guide recommends",
        LEAVE_OUT,
        default=1,
    ),
    *lacking(
        "model_prediction_type",
        TEXT,
        "the loss is that of `raw`, as kohya's guide recommends",
        LEAVE_OUT,
        default="raw",
    ),
    *lacking("apply_t5_attn_mask apply_lg_attn_mask", SWITCH, "prompts are read as diffusers reads them", LEAVE_OUT),
    *lacking("t5xxl_max_token_length", WHOLE, "prompts are read up to the length of diffusers", LEAVE_OUT),
    *lacking(
        "clip_l_dropout_rate clip_g_dropout_rate t5_dropout_rate",
        NUMBER,
        "text encoders are dropped all at once",
        "Use caption_dropout_rate",
        default=0,
    ),
    *lacking("pos_emb_random_crop_rate", NUMBER, "positions are those of diffusers", LEAVE_OUT, default=0),
    *lacking("enable_scaled_pos_embed", SWITCH, "positions are those of diffusers", LEAVE_OUT),
    *unneeded("save_clip save_t5xxl", SWITCH, "it does not work in kohya's trainer either"),
    *unneeded("t5xxl_device t5xxl_dtype", TEXT, "it does not work in kohya's trainer either"),
    *unneeded("split_mode", SWITCH, "blocks before the first trained one run without a graph"),
    *lacking(
        "blocks_to_swap", WHOLE, "blocks stay on the device", "Use --quantize nf4 or gradient_checkpointing", default=0
    ),
    # Precision, memory and speed
    here(
        "mixed_precision",
        TEXT,
        "--precision (training.precision)",
        remark="`no`, which is kohya's default, is fp32; here `auto`",
        default="no",
    ),
    *unneeded(
        "full_fp16 full_bf16", SWITCH, "the trained weights are kept in float32, and the frozen ones in half precision"
    ),
    *lacking(
        "fp8_base fp8_base_unet",
        SWITCH,
        "frozen weights have 16 bits, or those of --quantize",
        "Give --quantize int8 with a base in a folder of diffusers",
    ),
    here(
        "gradient_checkpointing",
        SWITCH,
        "--set training.gradient_checkpointing=true",
        "training.gradient_checkpointing",
    ),
    *lacking("cpu_offload_checkpointing", SWITCH, "activations stay on the device", "Use gradient_checkpointing"),
    *unneeded("xformers", SWITCH, "PyTorch's own attention is used"),
    *unneeded("sdpa", SWITCH, "it is what is always used"),
    *unneeded("mem_eff_attn", SWITCH, "PyTorch's own attention needs little memory"),
    here("torch_compile", SWITCH, "--set training.compile=true", "training.compile"),
    *unneeded("dynamo_backend", TEXT, "the backend is inductor", default="inductor"),
    *unneeded("ddp_timeout", WHOLE, "accelerate's own is used"),
    *unneeded("ddp_gradient_as_bucket_view ddp_static_graph", SWITCH, "an adapter's gradients are small"),
    *lacking(
        "deepspeed zero3_init_flag zero3_save_16bit_model fp16_master_weights_and_gradients",
        SWITCH,
        "DeepSpeed is not used",
        "Train in several processes with accelerate: docs/training.md",
    ),
    *lacking("zero_stage", WHOLE, "DeepSpeed is not used", LEAVE_OUT, default=2),
    *lacking(
        "offload_optimizer_device offload_optimizer_nvme_path offload_param_device offload_param_nvme_path",
        TEXT,
        "DeepSpeed is not used",
        LEAVE_OUT,
    ),
    # Files
    here(
        "output_dir",
        TEXT,
        "--out (out)",
        remark="the run's folder is OUTPUT_DIR/OUTPUT_NAME, as each run has a folder of its own",
    ),
    here(
        "output_name",
        TEXT,
        "--name (output.name); --out is the folder of the run",
        remark="`last` if it is not given; here `adapter`",
    ),
    here("save_precision", TEXT, "--save-dtype (output.dtype)", remark="`float` is fp32"),
    *lacking("save_model_as", TEXT, "adapters are safetensors files", LEAVE_OUT, default="safetensors"),
    *unneeded("use_safetensors", SWITCH, "adapters are safetensors files"),
    here("save_every_n_steps", WHOLE, "checkpoints every N steps: --set checkpoint.every=500", "checkpoint.every"),
    here("save_every_n_epochs", WHOLE, "checkpoints every N epochs: --set checkpoint.every_epochs=1"),
    here("save_n_epoch_ratio", WHOLE, "--set checkpoint.every_epochs=1", remark="with a number of epochs"),
    here("save_last_n_epochs", WHOLE, "--set checkpoint.keep=2", remark="all are kept if it is not given; here 2"),
    here("save_last_n_steps", WHOLE, "--set checkpoint.keep=2", remark="all are kept if it is not given; here 2"),
    *unneeded("save_state save_state_on_train_end", SWITCH, "a checkpoint always holds the state"),
    *unneeded("save_last_n_epochs_state save_last_n_steps_state", WHOLE, "a checkpoint always holds the state"),
    *lacking("resume", TEXT, "states of kohya's trainer are not read", "Start from its adapter with --initial"),
    *lacking("training_comment", TEXT, "the file's metadata hold all settings instead", LEAVE_OUT),
    *lacking("no_metadata", SWITCH, "files always say what they are", LEAVE_OUT),
    *lacking(
        " ".join(
            f"metadata_{name}"
            for name in (
                *("title", "author", "description", "license", "tags", "usage_hint", "thumbnail", "merged_from"),
                *("trigger_phrase", "preprocessor", "is_negative_embedding"),
            )
        ),
        TEXT,
        "the metadata are those that bwlab writes",
        LEAVE_OUT,
    ),
    *lacking(
        "huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token "
        "huggingface_repo_visibility",
        TEXT,
        "nothing is uploaded",
        "Upload the file with 'hf upload'",
    ),
    *lacking(
        "save_state_to_huggingface resume_from_huggingface async_upload", SWITCH, "nothing is uploaded", LEAVE_OUT
    ),
    # Previews, validation and logs
    here(
        "sample_prompts",
        TEXT,
        "--set preview.prompts=...",
        remark="the file's prompts; negative prompt, size, steps (30), guidance (7.5) and seed are those of the first",
    ),
    here("sample_every_n_steps", WHOLE, "previews every N steps: --set preview.every=100"),
    here("sample_every_n_epochs", WHOLE, "previews every N epochs: --set preview.every_epochs=1"),
    *lacking(
        "sample_at_first", SWITCH, "the first previews come after some steps", "Use 'bwlab generate' without an adapter"
    ),
    *unneeded("sample_sampler", TEXT, "previews use the sampler that suits the base", default="ddim"),
    *lacking("validation_seed max_validation_steps", WHOLE, "no images are held out", LEAVE_OUT),
    *lacking(
        "validation_split", NUMBER, "no images are held out", "Use 'bwlab analyze fidelity' afterwards", default=0
    ),
    *lacking("validate_every_n_steps validate_every_n_epochs", WHOLE, "no images are held out", LEAVE_OUT),
    here("log_with", TEXT, "--set tracking.trackers=tensorboard", remark="`all` is both `tensorboard` and `wandb`"),
    here(
        "logging_dir",
        TEXT,
        "--set tracking.trackers=tensorboard",
        remark="logs lie in the run's folder, `OUT/tensorboard`",
    ),
    here("log_tracker_name", TEXT, "--set tracking.project=foxes", "tracking.project"),
    here("wandb_run_name", TEXT, "--set tracking.run=first", "tracking.run"),
    *unneeded("log_prefix log_tracker_config", TEXT, "logs lie in the run's folder"),
    *unneeded("wandb_api_key", TEXT, "'wandb login' keeps it where no config file shows it"),
    *unneeded("log_config", SWITCH, "config.toml and the metadata hold all settings"),
    *unneeded("console_log_level console_log_file", TEXT, "messages go to standard error"),
    *unneeded("console_log_simple", SWITCH, "messages go to standard error"),
    here(
        "config_file", TEXT, "the settings file: bwlab train run.toml", remark="the translation reads it; options win"
    ),
    *unneeded("output_config", SWITCH, "'bwlab config init FILE --from-kohya ...' writes the settings"),
    # What stands before the script's name
    *unneeded("launch.mixed_precision", TEXT, "the script's own option counts"),
    *unneeded("launch.num_cpu_threads_per_process", WHOLE, "PyTorch chooses; OMP_NUM_THREADS changes it"),
    *lacking(
        "launch.num_processes launch.num_machines launch.machine_rank",
        WHOLE,
        "one process trains",
        "Start bwlab itself with it: accelerate launch ... -m bwlab train",
        default=1,
    ),
    *lacking(
        "launch.multi_gpu",
        SWITCH,
        "one process trains",
        "Start bwlab itself with it: accelerate launch --multi_gpu ... -m bwlab train",
    ),
)

NETWORK_ARGS = "network_args."
LAUNCH = "launch."

OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "pagedadamw": "adamw",
    "pagedadamw8bit": "adamw8bit",
    "pagedadamw32bit": "adamw",
    "lion": "lion",
    "lion8bit": "lion",
    "pagedlion8bit": "lion",
    "adafactor": "adafactor",
    "prodigy": "prodigy",
}
"""Names of optimisers, in lower case, and what they are here; a paged one or Lion of 8 bits only saves memory."""

SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine_restarts",
    "polynomial": "polynomial",
}
"""Names of schedules, and what they are here."""
