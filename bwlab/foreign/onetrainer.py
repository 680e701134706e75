"""Configs of OneTrainer, translated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bwlab.base.quantisation import Quantisation
from bwlab.config.foreign.onetrainer import DTYPES, ONETRAINER, OPTIMIZERS, SCHEDULES, TEXT_ENCODERS
from bwlab.errors import BwlabError, first_line
from bwlab.foreign.folders import Folder, put_folders
from bwlab.foreign.optimizers import known_options, put_options
from bwlab.foreign.ranks import TRANSFORMERS
from bwlab.foreign.translator import Translation, Translator, flattened_dict, rounded, same, table_of
from bwlab.text import parse_json

PROGRAM = "OneTrainer"
LISTS = ("concepts", "samples")
MOST_EMA = 0.999999  # of training.ema
FAMILIES: Sequence[tuple[str, str]] = (
    ("STABLE_DIFFUSION_XL", "sdxl"),
    ("STABLE_DIFFUSION_3", "sd3"),
    ("FLUX_DEV_1", "flux"),
    ("STABLE_DIFFUSION", "sd"),
)
ENCODERS: Mapping[str, Sequence[str]] = {
    "sd": ("te",),
    "sdxl": ("te1", "te2"),
    "sd3": ("te1", "te2", "te3"),
    "flux": ("te1", "te2"),
}
QUANTISATIONS: Mapping[str, Quantisation] = {
    **dict.fromkeys(("NFLOAT_4", "NFLOAT_4_SVD"), "nf4"),
    **dict.fromkeys(("INT_8", "INT_W8A8", "INT_W8A8_SVD"), "int8"),
    **dict.fromkeys(("FLOAT_8", "FLOAT_8_SVD", "FLOAT_W8A8", "FLOAT_W8A8_SVD"), "int8"),
}
LYCORIS: Mapping[str, str] = {"LOHA": "loha", "LOKR": "lokr", "OFT_2": "oft"}
LOKR_OPTIONS: Mapping[str, str] = {
    "lokr_decompose_both": "decompose_both",
    "lokr_use_tucker": "use_tucker",
    "lokr_full_matrix": "full_matrix",
}
CONCEPT: Mapping[str, str] = {
    "image.enable_random_flip": "data.flip",
    "image.enable_crop_jitter": "data.random_crop",
    "text.enable_tag_shuffling": "data.shuffle_caption",
}


def is_config(config: Mapping[str, object]) -> bool:
    """Return whether a JSON object is a config of OneTrainer."""
    return bool({"training_method", "model_type", "base_model_name", "output_model_destination"} & config.keys())


def from_json(path: Path, config: Mapping[str, object]) -> Translation:
    """Return what a config means.

    Args:
        path: the file, for messages.
        config: its contents; files of concepts and samples that it names are read.

    Raises:
        BwlabError: it is no config of OneTrainer, trains something else than adapters, or has a value that the key
            cannot have.

    """
    if not is_config(config):
        fix = "Give a config as OneTrainer saves it, with training_method"
        raise BwlabError(f"--from {path}", "it is no config of OneTrainer", fix)
    values = {key: value for key, value in flattened_dict(config).items() if key != "__version"}
    values |= {name: values.get(name) or _file_of(values, name) for name in LISTS}
    t = Translator(PROGRAM, table_of(ONETRAINER), values, _shown)
    t.notes += t.unknown_notes()
    t.general()
    family = _family(t)
    parts: tuple[Callable[[Translator, str], None], ...] = (_adapter, _data, _steps, _loss, _machine, _files, _previews)
    for part in parts:
        part(t, family)
    t.notes.append(f"{PROGRAM} draws its seeds at random; bwlab's seed is 0, each time the same")
    return t.result()


def _shown(name: str, value: object) -> str:
    return name if value is True or isinstance(value, (list, dict)) else f"{name} = {value}"


def _file_of(values: Mapping[str, object], name: str) -> list[object]:
    """Return the concepts or samples of the file that a config names; none if there is no such file."""
    key = "concept_file_name" if name == "concepts" else "sample_definition_file_name"
    path = Path(str(values.get(key) or ""))
    if not path.is_file():
        return []
    try:
        entries = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BwlabError(f"{PROGRAM}'s {key} = {path}", first_line(error), "Correct the file") from None
    return list(entries) if isinstance(entries, list) else []


def _family(t: Translator) -> str:
    kind = t.text("model_type", "STABLE_DIFFUSION_15")
    family = next((family for prefix, family in FAMILIES if kind.startswith(prefix)), "")
    if not family:
        t.warn("model_type", "it is no base that bwlab trains adapters for", "Give a base with --base")
    return family or "sd"


# The adapter


def _adapter(t: Translator, family: str) -> None:
    method = t.text("training_method", "FINE_TUNE")
    if method == "EMBEDDING":
        _words(t)
        return
    if method != "LORA":
        raise BwlabError(t.asked("training_method"), "bwlab trains adapters and new words", "Give LORA or EMBEDDING")
    kind = _type(t)
    rank = t.whole({"lokr": "lokr_dim", "dokr": "lokr_dim", "oft": "oft_block_size"}.get(kind, "lora_rank"), None)
    rank = rank or (32 if kind == "oft" else 16)
    part = "transformer" if family in TRANSFORMERS else "unet"
    entries = []
    if t.switch(f"{part}.train", True):
        entries.append(f"all={rank}")
        if family in TRANSFORMERS and t.text("layer_filter_preset", "full") in ("full", "blocks"):
            entries.append(f"modulation={rank}")
    encoders = [
        (ours, theirs)
        for ours, theirs in zip(ENCODERS[family], TEXT_ENCODERS, strict=False)
        if t.switch(f"{theirs}.train", True)
    ]
    entries += [f"{ours}={rank}" for ours, _ in encoders]
    t.put(
        "adapter.blocks",
        ", ".join(entries),
        "lora_rank",
        f"{part}.train",
        *(f"{theirs}.train" for _, theirs in encoders),
    )
    t.put("adapter.alpha", t.number("lora_alpha", 1.0), "lora_alpha")
    if t.has("lora_model_name"):
        t.put("adapter.initial", t.text("lora_model_name"), "lora_model_name")
    _rates(t, part, encoders)


def _type(t: Translator) -> str:
    """Set the adapter type and its options, and return the type."""
    preset = t.text("layer_filter_preset", "full")
    peft = t.text("peft_type", "LORA")
    kind = LYCORIS.get(peft, "locon" if preset in ("full", "blocks") else "lora")
    if peft == "LORA" and t.switch("lora_decompose"):
        kind = "dora"
        t.put("adapter.options.wd_on_output", t.switch("lora_decompose_output_axis"), "lora_decompose_output_axis")
    if peft == "LOKR":
        decomposed = t.switch("lokr_weight_decompose")
        kind = "dokr" if decomposed else "lokr"
        if decomposed:
            t.put("adapter.options.wd_on_output", t.switch("lokr_dora_on_output", True), "lokr_dora_on_output")
        t.put("adapter.options.factor", t.whole("lokr_decompose_factor", -1), "lokr_decompose_factor")
        for name, option in LOKR_OPTIONS.items():
            t.put(f"adapter.options.{option}", t.switch(name), name)
    if preset not in ("full", "blocks", "attn-mlp"):
        t.warn("layer_filter_preset", "attention and MLP of the blocks are adapted", "Choose blocks with --blocks")
    elif preset == "full":
        t.notes.append(f"{PROGRAM}'s preset `full` adapts layers outside the blocks too, which bwlab does not")
    t.put("adapter.type", kind, "peft_type", "layer_filter_preset")
    return kind


def _rates(t: Translator, part: str, encoders: Sequence[tuple[str, str]]) -> None:
    common = t.number("learning_rate", 3e-6)
    rate = t.number(f"{part}.learning_rate", common)
    t.put("training.lr", rate, f"{part}.learning_rate", "learning_rate")
    own = {ours: t.number(f"{theirs}.learning_rate", common) for ours, theirs in encoders}
    text = ", ".join(f"{ours}={value:.9g}" for ours, value in own.items() if value is not None and value != rate)
    if text:
        t.put("training.block_lr", text, *(f"{theirs}.learning_rate" for _, theirs in encoders), "learning_rate")


def _words(t: Translator) -> None:
    t.put("tokens.words", [t.text("embedding.placeholder", "<embedding>")], "embedding.placeholder")
    t.put("tokens.vectors", t.whole("embedding.token_count", 1), "embedding.token_count")
    t.put("tokens.initial", t.text("embedding.initial_embedding_text", "*"), "embedding.initial_embedding_text")
    t.put("tokens.alone", True, "training_method")
    t.put(
        "tokens.lr",
        t.number("embedding_learning_rate", t.number("learning_rate", 3e-6)),
        "embedding_learning_rate",
        "learning_rate",
    )


# The data


def _data(t: Translator, family: str) -> None:
    concepts = t.values["concepts"]
    sizes = _sizes(t)
    buckets = t.switch("aspect_ratio_bucketing", True)
    folders = []
    for concept in concepts if isinstance(concepts, list) else []:
        flat = flattened_dict(dict(concept))
        one = Translator(
            PROGRAM, t.rows, {f"concepts.{key}": value for key, value in flat.items() if key != "__version"}, _shown
        )
        if not one.switch("concepts.enabled", True) or one.text("concepts.type") == "VALIDATION":
            continue
        t.notes += one.unknown_notes()
        one.general()
        t.warnings += [line for line in one.warnings if line not in t.warnings]
        folders.append(_folder(one, sizes, buckets))
    if not folders:
        fix = "Give the folder of the images with --data"
        t.warnings.append(f"{PROGRAM}'s concepts are not in the config, nor in a file that it names here. {fix}")
        t.put("data.buckets", buckets, "aspect_ratio_bucketing")
        if len(sizes) == 1 and isinstance(sizes[0], int):
            t.put("data.resolution", sizes[0], "resolution")
    put_folders(t, folders, "concepts")


def _folder(one: Translator, sizes: Sequence[int | tuple[int, int]], buckets: bool) -> Folder:
    settings: dict[str, object] = {"data.buckets": buckets}
    for name, key in CONCEPT.items():
        settings[key] = one.switch(f"concepts.{name}", name == "image.enable_crop_jitter")
    settings["data.keep_tokens"] = one.whole("concepts.text.keep_tags_count", 1)
    if one.switch("concepts.text.tag_dropout_enable"):
        settings["data.tag_dropout"] = one.number("concepts.text.tag_dropout_probability", 0.0)
    settings["data.repeats"] = max(1, round(one.number("concepts.balancing", 1.0) or 1.0))
    regularisation = one.text("concepts.type") == "PRIOR_PREDICTION"
    recursive = one.switch("concepts.include_subdirectories")
    return Folder(one.text("concepts.path"), sizes, regularisation, settings, recursive=recursive)


def _sizes(t: Translator) -> list[int | tuple[int, int]]:
    sizes: list[int | tuple[int, int]] = []
    for part in t.text("resolution", "512").split(","):
        try:
            sides = [int(side) for side in part.lower().split("x")]
        except ValueError:
            sides = []
        if len(sides) not in (1, 2):
            raise BwlabError(t.asked("resolution"), "not a resolution", "Write 512, 512,768 or 512x768")
        sizes.append(sides[0] if len(sides) == 1 else (sides[0], sides[1]))
    return sizes


# Steps, loss and machine


def _steps(t: Translator, family: str) -> None:
    if not t.has("epochs"):
        t.put("training.epochs", 100, "epochs")
    if not t.has("batch_size"):
        t.put("training.batch_size", 1, "batch_size")
    schedule = t.choose("training.schedule", "learning_rate_scheduler", SCHEDULES, "CONSTANT", str)
    if schedule == "cosine_restarts":
        t.put("training.cycles", t.whole("learning_rate_cycles", 1), "learning_rate_cycles")
    warmup = t.number("learning_rate_warmup_steps", 200.0) or 0.0
    if 0 < warmup < 1:
        t.put("training.warmup_share", warmup, "learning_rate_warmup_steps")
    elif warmup > 1:
        steps = int(warmup / (t.whole("gradient_accumulation_steps", 1) or 1))
        t.put("training.warmup", steps, "learning_rate_warmup_steps", "gradient_accumulation_steps")
    t.put("training.max_grad_norm", t.number("clip_grad_norm", 1.0), "clip_grad_norm")
    if t.text("ema", "OFF") != "OFF":
        interval = max(1, t.whole("ema_update_step_interval", 5) or 5)
        decay = (t.number("ema_decay", 0.999) or 0.0) ** (1 / interval)
        t.put("training.ema", rounded(min(decay, MOST_EMA)), "ema_decay", "ema_update_step_interval")
        if interval > 1:
            t.note("ema_decay", f"it counts once in {interval} steps there, and at every step here, as its root")
    optimizer = t.choose("training.optimizer", "optimizer.optimizer", OPTIMIZERS, "ADAMW", str.upper)
    put_options(t, optimizer, _options(t, optimizer), "optimizer.optimizer")


def _options(t: Translator, optimizer: str) -> dict[str, object]:
    """Return the options of the optimiser that the config holds; those of other optimisers are there too."""
    known = known_options(optimizer) or frozenset()
    options = {name: t.values[f"optimizer.{name}"] for name in known if t.has(f"optimizer.{name}")}
    first, second = t.number("optimizer.beta1"), t.number("optimizer.beta2")
    if "betas" in known and first is not None and second is not None:
        options["betas"] = [first, second]
    if optimizer == "adafactor":
        options.pop("eps", None)
    if t.has("optimizer.weight_decay"):
        options["weight_decay"] = t.number("optimizer.weight_decay")
    return dict(sorted(options.items()))


def _loss(t: Translator, family: str) -> None:
    weight = t.text("loss_weight_fn", "CONSTANT")
    if weight == "MIN_SNR_GAMMA" and family not in TRANSFORMERS:
        t.put("training.min_snr_gamma", t.number("loss_weight_strength", 5.0), "loss_weight_strength", "loss_weight_fn")
    elif weight != "CONSTANT":
        t.warn(
            "loss_weight_fn",
            "bwlab does not have this loss weighting for this base",
            "Use CONSTANT, or MIN_SNR_GAMMA by diffusion",
        )
    distribution = t.text("timestep_distribution", "UNIFORM")
    if family in TRANSFORMERS:
        known = {"UNIFORM": "uniform", "LOGIT_NORMAL": "logit_normal"}
        t.put("training.timestep_sampling", known.get(distribution, "uniform"), "timestep_distribution")
        if not t.switch("dynamic_timestep_shifting"):
            t.put("training.timestep_shift", t.number("timestep_shift", 1.0), "timestep_shift")
    if distribution not in ("UNIFORM", "LOGIT_NORMAL") or (distribution != "UNIFORM" and family not in TRANSFORMERS):
        t.warn("timestep_distribution", "times are drawn uniformly", "Leave it out")
    skipped = t.whole("text_encoder_layer_skip", 0) or 0
    if skipped and family == "sd":
        t.put("training.clip_skip", skipped + 1, "text_encoder_layer_skip")


def _machine(t: Translator, family: str) -> None:
    t.choose("training.precision", "train_dtype", DTYPES, "FLOAT_16", str.upper)
    part = "transformer" if family in TRANSFORMERS else "unet"
    t.put(
        "training.gradient_checkpointing",
        t.switch(f"{part}.gradient_checkpointing", True),
        f"{part}.gradient_checkpointing",
    )
    quantisation = QUANTISATIONS.get(t.text(f"{part}.weight_dtype"))
    if quantisation is not None:
        t.put_quantisation(quantisation, f"{part}.weight_dtype")
    if t.has("train_device"):
        t.put("training.device", t.text("train_device"), "train_device")


# Files and previews


def _files(t: Translator, family: str) -> None:
    path = Path(t.text("output_model_destination", "models/model.safetensors").replace("\\", "/"))
    t.put("output.name", path.stem, "output_model_destination")
    t.put("out", str(path.with_suffix("") if path.suffix else path), "output_model_destination")
    t.choose("output.dtype", "output_dtype", DTYPES, "FLOAT_32", str.upper)
    _every(t, "checkpoint", "save_every", "save_every_unit", "NEVER")
    if "checkpoint.every" in t.settings or "checkpoint.every_epochs" in t.settings:
        t.put("checkpoint.keep", 1_000_000, "save_every")
    if t.switch("tensorboard", True):
        t.put("tracking.trackers", ["tensorboard"], "tensorboard")


def _every(t: Translator, section: str, name: str, unit_name: str, unit: str) -> None:
    """Set after how many steps or epochs something comes; other units have no counterpart."""
    unit, number = t.text(unit_name, unit), t.whole(name)
    keys = {"STEP": f"{section}.every", "EPOCH": f"{section}.every_epochs"}
    if unit in keys and number:
        t.put(keys[unit], number, name, unit_name)
    elif unit != "NEVER" and t.has(unit_name) and not same(number, 0):
        t.warn(unit_name, "steps and epochs are counted, and no time", f"Give --set {section}.every=500")


def _previews(t: Translator, family: str) -> None:
    samples = t.values["samples"]
    flat = [flattened_dict(dict(entry)) for entry in samples] if isinstance(samples, list) else []
    ones = [
        Translator(PROGRAM, t.rows, {f"samples.{key}": value for key, value in entry.items()}, _shown) for entry in flat
    ]
    used = [one for one in ones if one.switch("samples.enabled", True) and one.text("samples.prompt")]
    if not used or t.text("sample_after_unit") == "NEVER":
        t.put("preview.enabled", False, "samples")
        return
    t.put("preview.prompts", [one.text("samples.prompt") for one in used], "samples")
    first = used[0]
    for key, value in (
        ("preview.negative", first.text("samples.negative_prompt")),
        ("preview.seed", first.whole("samples.seed", 42)),
        ("preview.steps", first.whole("samples.diffusion_steps", 20)),
        ("preview.cfg", first.number("samples.cfg_scale", 7.0)),
        ("preview.width", first.whole("samples.width")),
        ("preview.height", first.whole("samples.height")),
    ):
        if value is not None:
            t.put(key, value, "samples")
    _every(t, "preview", "sample_after", "sample_after_unit", "MINUTE")
