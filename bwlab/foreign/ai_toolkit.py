"""Configs of ai-toolkit, translated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from bwlab.config.foreign.ai_toolkit import AI_TOOLKIT, DTYPES, OPTIMIZERS, SCHEDULES
from bwlab.errors import BwlabError, first_line
from bwlab.foreign.folders import Folder, put_folders
from bwlab.foreign.optimizers import put_options
from bwlab.foreign.ranks import TRANSFORMERS, everywhere
from bwlab.foreign.translator import Translation, Translator, flattened_dict, table_of

PROGRAM = "ai-toolkit"
WANTED = "Give a config with job: extension and a process of the type sd_trainer"
TABLES = ("network", "save", "train", "model", "sample", "logging", "embedding")
FAMILIES: Mapping[str, str] = {"flux": "flux", "sd3": "sd3", "sdxl": "sdxl", "sd1": "sd", "sd2": "sd", "sd": "sd"}
ENCODERS: Mapping[str, Sequence[str]] = {"sd": ("te",), "sdxl": ("te1", "te2"), "sd3": ("te1", "te2"), "flux": ("te1",)}
DATASET: Mapping[str, str] = {
    "shuffle_tokens": "data.shuffle_caption",
    "flip_x": "data.flip",
    "random_crop": "data.random_crop",
}
MOST_VALUES = 100_000  # in a config; aliases of YAML can stand for any number


def from_yaml(path: Path, contents: str) -> Translation:
    """Return what a config means.

    Args:
        path: the file, for messages.
        contents: its text.

    Raises:
        BwlabError: it is no config of ai-toolkit for one training, or has a value that the key cannot have.

    """
    config, process = _process(path, contents)
    values: dict[str, object] = {"name": config.get("name"), **_values(process)}
    t = Translator(PROGRAM, table_of(AI_TOOLKIT), values, _shown)
    t.notes += t.unknown_notes()
    t.general()
    family = _family(t)
    parts: tuple[Callable[[Translator, str], None], ...] = (
        _adapter,
        _data,
        _steps,
        _loss,
        _files,
        _previews,
        _tracking,
    )
    for part in parts:
        part(t, family)
    t.notes.append(f"{PROGRAM} draws its seeds at random; bwlab's seed is 0, each time the same")
    return t.result()


def _process(path: Path, contents: str) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Return the `config` of a file and its only process; BwlabError if there is none or several."""
    asked = f"--from {path}"
    try:
        tables = yaml.safe_load(contents)
        _require_small(tables)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BwlabError(asked, f"it is no YAML that can be read ({first_line(error)})", WANTED) from None
    config = tables.get("config") if isinstance(tables, dict) else None
    processes = config.get("process") if isinstance(config, dict) else None
    if (
        not isinstance(config, dict)
        or not isinstance(processes, list)
        or not all(isinstance(one, dict) for one in processes)
    ):
        raise BwlabError(asked, "it is no config of ai-toolkit", WANTED)
    if len(processes) != 1:
        raise BwlabError(asked, f"it has {len(processes)} processes", "Give a config with one")
    kind = processes[0].get("type")
    if kind not in ("sd_trainer", "diffusion_trainer", "ui_trainer"):
        raise BwlabError(asked, f"its process is of the type {kind}", WANTED)
    return config, processes[0]


def _require_small(tables: object) -> None:
    """Raise ValueError for a document with more values than a config has, counting what aliases stand for."""
    left, waiting = MOST_VALUES, [tables]
    while waiting:
        value = waiting.pop()
        left -= 1
        if left < 0:
            raise ValueError("it stands for too many values")
        waiting += list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _values(process: Mapping[str, object]) -> dict[str, object]:
    """Return the keys of a process, those of its tables with the table before them."""
    values: dict[str, object] = {}
    for name, value in process.items():
        if name in TABLES and isinstance(value, dict):
            values |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            values[str(name)] = value
    return values


def _shown(name: str, value: object) -> str:
    return name if value is True or isinstance(value, (list, dict)) else f"{name}: {value}"


def _family(t: Translator) -> str:
    arch = t.text("model.arch")
    flags = {"model.is_flux": "flux", "model.is_v3": "sd3", "model.is_xl": "sdxl"}
    family = next((kind for name, kind in flags.items() if t.switch(name)), "")
    if arch and arch not in FAMILIES:
        t.warn("model.arch", "it is no base that bwlab trains adapters for", "Give a base with --base")
    return family or FAMILIES.get(arch, "sd")


# The adapter


def _adapter(t: Translator, family: str) -> None:
    words = "embedding.trigger"
    if t.has(words):
        t.put("tokens.words", [t.text(words)], words)
        t.put("tokens.vectors", t.whole("embedding.tokens", 4), "embedding.tokens")
        t.put("tokens.initial", t.text("embedding.init_words", "*"), "embedding.init_words")
        t.put("tokens.lr", t.number("train.embedding_lr", t.number("train.lr", 1e-6)), "train.embedding_lr", "train.lr")
    if not any(name.startswith("network.") for name in t.values):
        if not t.has(words):
            raise BwlabError(f"{PROGRAM}'s config", "it has no network, so it trains the whole model", "Add network")
        t.put("tokens.alone", True, words)
        return
    _network(t, family)


def _network(t: Translator, family: str) -> None:
    kind = t.text("network.type", "lora").lower()
    names = ("network.rank", "network.linear")
    rank = t.whole("network.rank", t.whole("network.linear", 4)) or 4
    adapter = "locon" if kind == "lora" and t.has("network.conv") and family not in TRANSFORMERS else kind
    t.put("adapter.type", adapter, "network.type", "network.conv")
    if kind == "lokr":
        t.put("adapter.options.full_matrix", t.switch("network.lokr_full_rank", True), "network.lokr_full_rank")
        t.put("adapter.options.factor", t.whole("network.lokr_factor", -1), "network.lokr_factor")
    convolutions = (t.whole("network.conv", rank) or rank) if adapter == "locon" else rank
    if convolutions != rank:
        t.note("network.conv", "all layers of resnets have this rank, also those of 1 x 1 and linear ones")
    encoders = list(ENCODERS[family]) if t.switch("train.train_text_encoder") else []
    denoiser = [everywhere(rank, family, convolutions)] if t.switch("train.train_unet", True) else []
    spec = ", ".join([*denoiser, *(f"{name}={rank}" for name in encoders)])
    t.put("adapter.blocks", spec, *names, "train.train_text_encoder")
    alpha = t.number("network.linear_alpha", t.number("network.alpha", 1.0))
    other = t.number("network.conv_alpha", convolutions) if adapter == "locon" else alpha
    if alpha != rank or other != convolutions:
        t.put("adapter.alpha", alpha, "network.linear_alpha", "network.alpha")
        if other != alpha:
            name = "network.conv_alpha" if t.has("network.conv_alpha") else "network.conv"
            t.warn(name, f"all layers have the alpha {alpha:g}, and none {other:g}", "Give --alpha")
    common = t.number("train.lr", 1e-6)
    rate = t.number("train.unet_lr", common)
    t.put("training.lr", rate, "train.unet_lr", "train.lr")
    own = t.number("train.text_encoder_lr", common)
    if encoders and own is not None and own != rate:
        t.put("training.block_lr", f"te={own:.9g}", "train.text_encoder_lr", "train.lr")
    if t.has("model.lora_path"):
        t.warn("model.lora_path", "the base is trained as it is", "Fold it in with 'bwlab merge', or give --initial")


# The data


def _data(t: Translator, family: str) -> None:
    datasets = t.values.get("datasets")
    folders = []
    for dataset in datasets if isinstance(datasets, list) else []:
        values = {f"datasets.{key}": value for key, value in dict(dataset).items()}
        one = Translator(PROGRAM, t.rows, values, _shown)
        t.notes += one.unknown_notes()
        one.general()
        t.warnings += [line for line in one.warnings if line not in t.warnings]
        t.notes += [line for line in one.notes if line not in t.notes]
        folders.append(_folder(t, one))
    put_folders(t, folders, "datasets")


def _folder(t: Translator, one: Translator) -> Folder:
    settings: dict[str, object] = {key: one.switch(f"datasets.{name}") for name, key in DATASET.items()}
    settings["data.buckets"] = one.switch("datasets.buckets", True)
    settings["data.bucket_step"] = one.whole("datasets.bucket_tolerance", 64)
    settings["data.repeats"] = one.whole("datasets.num_repeats", 1)
    settings["data.keep_tokens"] = one.whole("datasets.keep_tokens", 0)
    settings["data.tag_dropout"] = one.number("datasets.token_dropout_rate", 0.0)
    dropout = one.number("datasets.caption_dropout_rate", t.number("train.prompt_dropout_prob", 0.0))
    settings["data.caption_dropout"] = dropout
    extension = one.text("datasets.caption_ext", ".txt")
    settings["data.caption_extension"] = extension if extension.startswith(".") else f".{extension}"
    if one.has("datasets.default_caption"):
        settings["data.caption"] = one.text("datasets.default_caption")
    given = one.values.get("datasets.resolution", 512)
    sizes = given if isinstance(given, list) else [given]
    if not all(isinstance(size, int) for size in sizes):
        raise BwlabError(one.asked("datasets.resolution"), "not a resolution", "Write a number, or a list of them")
    path = one.text("datasets.folder_path", one.text("datasets.dataset_path"))
    trigger = one.text("datasets.trigger_word")
    prefix = f"{trigger}," if trigger else ""
    return Folder(path, [*sizes], one.switch("datasets.is_reg"), settings, prefix, recursive=True)


# Steps, loss and files


def _steps(t: Translator, family: str) -> None:
    steps, batches = t.whole("train.steps", 1000) or 1000, t.whole("train.gradient_accumulation_steps", 1) or 1
    if batches > 1:
        steps = max(1, steps // batches)
    t.put("training.steps", steps, "train.steps", "train.gradient_accumulation_steps")
    accumulation = max(batches, t.whole("train.gradient_accumulation", 1) or 1)
    t.put("training.accumulation", accumulation, "train.gradient_accumulation", "train.gradient_accumulation_steps")
    if not t.has("train.batch_size"):
        t.put("training.batch_size", 1, "train.batch_size")
    optimizer = t.choose("training.optimizer", "train.optimizer", OPTIMIZERS, "adamw", str.lower)
    put_options(t, optimizer, _optimizer_options(t, optimizer), "train.optimizer_params")
    t.choose("training.schedule", "train.lr_scheduler", SCHEDULES, "constant", str.lower)
    params = t.values.get("train.lr_scheduler_params") or {}
    for name, value in params.items() if isinstance(params, dict) else ():
        if name == "num_warmup_steps":
            t.put("training.warmup", value, "train.lr_scheduler_params")
        else:
            t.warn("train.lr_scheduler_params", f"schedules have no option {name}", "Take it out")
    ema = flattened_dict(dict(given)) if isinstance(given := t.values.get("train.ema_config"), dict) else {}
    if ema.get("use_ema"):
        t.put("training.ema", ema.get("ema_decay", 0.999), "train.ema_config")
    checkpointing = t.switch("train.gradient_checkpointing", True)
    t.put("training.gradient_checkpointing", checkpointing, "train.gradient_checkpointing")
    t.choose("training.precision", "train.dtype", DTYPES, "fp32", str.lower)
    if t.switch("model.quantize"):
        few_bits = any(bits in t.text("model.qtype") for bits in ("int2", "int3", "int4"))
        t.put_quantisation("nf4" if few_bits else "int8", "model.quantize", "model.qtype")


def _optimizer_options(t: Translator, optimizer: str) -> dict[str, object]:
    given = t.values.get("train.optimizer_params")
    options = dict(given) if isinstance(given, dict) else {}
    if optimizer == "adafactor":
        options.setdefault("scale_parameter", False)
    elif optimizer in ("adamw", "adamw8bit", "prodigy"):
        options.setdefault("eps", 1e-6)
    return options


def _loss(t: Translator, family: str) -> None:
    if t.has("train.min_snr_gamma"):
        if family in TRANSFORMERS:
            t.warn("train.min_snr_gamma", "its weights are made for diffusion", "Leave it out")
        else:
            t.put("training.min_snr_gamma", t.number("train.min_snr_gamma"), "train.min_snr_gamma")
    if family not in TRANSFORMERS:
        return
    kind = "linear" if t.switch("train.linear_timesteps") else t.text("train.timestep_type", "sigmoid")
    names = ("train.timestep_type", "train.linear_timesteps")
    if kind not in ("linear", "sigmoid", "shift", "flux_shift"):
        t.warn("train.timestep_type", "times are drawn uniformly or logit-normally", "Use linear, sigmoid or shift")
    t.put("training.timestep_sampling", "logit_normal" if kind == "sigmoid" else "uniform", *names)
    if "shift" not in kind:  # that shift is what the base's scheduler gives
        t.put("training.timestep_shift", 1.0, *names)


def _files(t: Translator, family: str) -> None:
    name = t.text("name", "adapter")
    t.put("output.name", name, "name")
    t.put("out", str(Path(t.text("training_folder", "output")) / name), "training_folder", "name")
    t.choose("output.dtype", "save.dtype", DTYPES, "float16", str.lower)
    if not t.has("save.save_every"):
        t.put("checkpoint.every", 1000, "save.save_every")
    if not t.has("save.max_step_saves_to_keep"):
        t.put("checkpoint.keep", 5, "save.max_step_saves_to_keep")


def _previews(t: Translator, family: str) -> None:
    prompts = t.values.get("sample.prompts") or t.values.get("sample.samples") or []
    entries = (
        [entry.get("prompt") if isinstance(entry, dict) else entry for entry in prompts]
        if isinstance(prompts, list)
        else []
    )
    texts = [str(entry).replace("[trigger]", t.text("trigger_word")) for entry in entries if entry]
    if t.switch("train.disable_sampling") or not texts:
        t.put("preview.enabled", False, "train.disable_sampling")
        return
    t.put("preview.prompts", texts, "sample.prompts", "sample.samples")
    if t.has("sample.neg") and t.values["sample.neg"] is not False:
        t.put("preview.negative", t.text("sample.neg"), "sample.neg")
    for name, key, default in (
        ("sample.sample_every", "preview.every", 100),
        ("sample.sample_steps", "preview.steps", 20),
        ("sample.guidance_scale", "preview.cfg", 7),
    ):
        if not t.has(name):
            t.put(key, default, name)


def _tracking(t: Translator, family: str) -> None:
    if not t.switch("logging.use_wandb"):
        return
    t.put("tracking.trackers", ["wandb"], "logging.use_wandb")
    t.put("tracking.project", t.text("logging.project_name", "ai-toolkit"), "logging.project_name")
    if t.has("logging.run_name"):
        t.put("tracking.run", t.text("logging.run_name"), "logging.run_name")
