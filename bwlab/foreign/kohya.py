"""Commands and configs of kohya's sd-scripts, translated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bwlab.config.foreign.kohya import KOHYA, NETWORK_ARGS, OPTIMIZERS, SCHEDULES
from bwlab.config.sources import flattened, read_tables
from bwlab.errors import BwlabError
from bwlab.foreign import optimizers
from bwlab.foreign.command_line import Command
from bwlab.foreign.previews import read_prompts
from bwlab.foreign.ranks import (
    LENGTHS,
    SIDES,
    TRANSFORMERS,
    blocks_with_modulation,
    everywhere,
    from_kohya,
    list_of,
    selected,
    weights_of,
    with_convolutions,
)
from bwlab.foreign.translator import Translation, Translator, as_number, as_whole, rounded, table_of

PROGRAM = "kohya"
MODULES: Mapping[str, str] = {
    "networks.lora": "lora",
    "networks.lora_flux": "lora",
    "networks.lora_sd3": "lora",
    "": "lora",
}
ALGORITHMS: Mapping[str, str] = {
    "lora": "locon",
    "locon": "locon",
    "loha": "loha",
    "lokr": "lokr",
    "ia3": "ia3",
    "glora": "glora",
    "diag-oft": "oft",
    "oft": "oft",
    "boft": "boft",
}
DECOMPOSED: Mapping[str, str] = {"locon": "dora", "loha": "doha", "lokr": "dokr"}
OPTIONS_OF: Mapping[str, tuple[str, ...]] = {
    "loha": ("use_tucker",),
    "lokr": ("factor", "decompose_both", "full_matrix", "unbalanced_factorization", "use_tucker"),
    "dora": ("wd_on_output",),
    "doha": ("use_tucker", "wd_on_output"),
    "dokr": ("factor", "decompose_both", "full_matrix", "unbalanced_factorization", "use_tucker", "wd_on_output"),
    "oft": ("constraint", "rescaled"),
    "boft": ("constraint", "rescaled"),
    "ia3": ("train_on_input",),
}
CLIP_ENCODERS: Mapping[str, int] = {"sd": 1, "sdxl": 2, "sd3": 2, "flux": 1}
EVERY_CHECKPOINT = 1_000_000  # more than a run has
PROMPT_DEFAULTS: Mapping[str, object] = {"preview.steps": 30, "preview.cfg": 7.5}


def from_command(command: Command) -> Translation:
    """Return what a command of kohya's trainer means.

    Raises:
        BwlabError: an option that its script lacks (with the nearest one), or a value that the option cannot have.

    """
    values = dict(command.values)
    if "config_file" in values:
        values = {**config_values(Path(str(values["config_file"]))), **values}
    translator = _translator(values)
    unknown = [name for name in command.values if name not in translator.rows]
    if unknown:
        options = "; ".join(text for text in translator.unknown() if text.split()[0].removeprefix("--") in unknown)
        raise BwlabError(f"{PROGRAM}'s {options}", "its trainer has no such option", "Correct its name, or take it out")
    return _translated(translator, command.family)


def from_config(path: Path) -> Translation:
    """Return what a settings file of kohya's trainer (`--config_file`) means; BwlabError as for `from_command`."""
    return _translated(_translator({**config_values(path), "config_file": str(path)}), "")


def config_values(path: Path) -> dict[str, object]:
    """Return the options of a settings file: tables only group them, as in kohya's trainer, which adds `.toml`."""
    file = path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")
    tables = read_tables(file, f"{PROGRAM}'s --config_file {path}", "settings file of kohya's trainer")
    return {key.rpartition(".")[2]: value for key, value in flattened(tables)}


def _translator(values: Mapping[str, object]) -> Translator:
    return Translator(PROGRAM, table_of(KOHYA), {**values, **_network_args(values)}, _shown)


def _shown(name: str, value: object) -> str:
    """Return an option as it is typed: `--network_dim 16`, `--network_args conv_dim=8`."""
    table, _, inner = name.rpartition(".")
    if table:
        return f"--network_args {inner}={value}" if f"{table}." == NETWORK_ARGS else f"{table} --{inner} {value}"
    words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"--{name}" if value is True else f"--{name} {words}"


def _network_args(values: Mapping[str, object]) -> dict[str, object]:
    given = values.get("network_args") or []
    pairs = [str(word).partition("=") for word in (given if isinstance(given, list) else [given])]
    wrong = next((name for name, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise BwlabError(f"{PROGRAM}'s --network_args {wrong}", "not of the form name=value", "Write conv_dim=8")
    return {NETWORK_ARGS + name.strip(): value.strip() for name, _, value in pairs}


def _translated(t: Translator, family: str) -> Translation:
    """Return the translation of all options, for a kind of base; if that is empty the options tell it."""
    family = family or _guessed(t)
    t.notes += t.unknown_notes("an option that kohya's trainer lacks")
    t.general()
    parts: tuple[Callable[[Translator, str], None], ...] = (
        _adapter, _data, _steps, _loss, _flow, _precision, _files, _previews, _tracking,
    )  # fmt: skip
    for part in parts:
        part(t, family)
    if not t.has("seed"):
        t.notes.append(f"{PROGRAM}'s seed is drawn at random unless it is given; bwlab's is 0, each time the same")
    return t.result()


def _guessed(t: Translator) -> str:
    """Return the kind of base that options without a script are for."""
    module = t.text("network_module")
    if module.endswith("flux") or t.has("ae") or t.has("discrete_flow_shift") or t.has("timestep_sampling"):
        return "flux"
    if module.endswith("sd3") or t.has("clip_g") or t.has("training_shift"):
        return "sd3"
    large = "xl" in Path(t.text("pretrained_model_name_or_path")).name.lower()
    return "sdxl" if large or t.switch("cache_text_encoder_outputs") else "sd"


def _arg(name: str) -> str:
    return NETWORK_ARGS + name


# The adapter: its type, the ranks of its blocks, and their learning rates.


def _adapter(t: Translator, family: str) -> None:
    rank = t.whole("network_dim", 4) or 4
    kind = _type(t)
    if family in TRANSFORMERS and t.text("pretrained_model_name_or_path").endswith(".safetensors"):
        t.note(
            "pretrained_model_name_or_path", "give the folder of the base's pipeline of diffusers with --base instead"
        )
    for option in OPTIONS_OF.get(kind, ()):
        if t.has(_arg(option)):
            t.put(f"adapter.options.{option}", _plain(t.text(_arg(option))), _arg(option))
    rates = _rates(t, family)
    denoiser = "" if t.switch("network_train_text_encoder_only") or rates.denoiser == 0 else _ranks(t, family, rank)
    encoders = _encoders(t, family, rates)
    spec = ", ".join([denoiser] * bool(denoiser) + [f"{name}={rank}" for name, rate in encoders.items() if rate])
    names = (
        "network_dim",
        *(_arg(name) for name in BLOCK_OPTIONS),
        "network_train_unet_only",
        "network_train_text_encoder_only",
    )
    t.put("adapter.blocks", spec, *names)
    _alpha(t, rank)
    if encoders and not t.has("text_encoder_lr") and denoiser:
        t.notes.append(
            f"{PROGRAM}'s trainer trains the text encoder unless it has --network_train_unet_only, so it does here"
        )
    _put_rates(t, family, rates, encoders if denoiser else {})


BLOCK_OPTIONS = (
    *("conv_dim", "block_dims", "down_lr_weight", "mid_lr_weight", "up_lr_weight", "train_blocks"),
    *("train_double_block_indices", "train_single_block_indices", "train_block_indices", "train_t5xxl"),
)


def _plain(text: str) -> object:
    """Return a value of a network's option as Python reads it: a number, a truth value or a text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _type(t: Translator) -> str:
    """Set the adapter type and return it; a module that has no counterpart keeps its name, for bwlab to refuse."""
    module = t.text("network_module")
    if _is_lycoris(t):
        algorithm = t.text(_arg("algo"), "lora").lower()
        kind = ALGORITHMS.get(algorithm, algorithm)
        if t.switch(_arg("dora_wd")):
            kind = DECOMPOSED.get(kind, kind)
        preset = t.text(_arg("preset"), "full")
        if preset == "attn-mlp" and kind == "locon":
            kind = "lora"
        elif preset != "full":
            t.warn(_arg("preset"), "all layers of the blocks are adapted", "Choose blocks with --blocks")
        t.put("adapter.type", kind, "network_module", _arg("algo"), _arg("dora_wd"), _arg("preset"))
        return kind
    kind = MODULES.get(module, module)
    if module == "networks.lora_fa":
        kind = "lora"
        t.warn("network_module", "both matrices of a layer are trained", "Leave it so, or freeze nothing")
    if kind == "lora" and t.has(_arg("conv_dim")):
        kind = "locon"
    t.put("adapter.type", kind, "network_module", _arg("conv_dim"))
    return kind


def _is_lycoris(t: Translator) -> bool:
    return t.text("network_module").startswith("lycoris")


def _ranks(t: Translator, family: str, rank: int) -> str:
    """Return the block spec of the denoiser's ranks."""
    if family in TRANSFORMERS:
        return _transformer_ranks(t, family, rank)
    weights = _weights(t, family)
    if t.has(_arg("block_dims")) or weights is not None:
        own = _lists_for(t, family)
        text = t.text(_arg("block_dims"))
        length = LENGTHS[own]
        ranks = list_of(text, length, t.asked(_arg("block_dims"))) if text else [float(rank)] * length
        kept = [number * (weight != 0) for number, weight in zip(ranks, weights or [1.0] * length, strict=True)]
        if not t.has(_arg("conv_dim")):
            return from_kohya(kept, own, "rank")
        of_convolutions = [_convolutions(t, rank)[0] * (weight != 0) for weight in weights or [1.0] * length]
        _note_convolutions(t)
        return with_convolutions(kept, of_convolutions, own)
    convolutions = _convolutions(t, rank)[0]
    if convolutions != rank:
        _note_convolutions(t)
    return everywhere(rank, family, convolutions)


def _convolutions(t: Translator, rank: int) -> tuple[int, float]:
    """Return rank and alpha of convolutions: those of other layers (LyCORIS), alpha 1 (kohya), if not given."""
    alpha = (t.number("network_alpha", 1.0) or 1.0) if _is_lycoris(t) else 1.0
    return t.whole(_arg("conv_dim"), rank) or rank, t.number(_arg("conv_alpha"), alpha) or alpha


def _note_convolutions(t: Translator) -> None:
    t.note(
        _arg("conv_dim"),
        "all layers of resnets have this rank, those of 1 x 1 and linear ones too, which have network_dim in kohya's",
    )


def _lists_for(t: Translator, family: str) -> str:
    """Return the kind of UNet whose blocks a list counts: where no script says it, the length of the list does."""
    entries = t.text(_arg("block_dims")).count(",") + 1
    return next((name for name, length in LENGTHS.items() if length == entries), family)


def _transformer_ranks(t: Translator, family: str, rank: int) -> str:
    kinds = {"double": 19, "single": 38} if family == "flux" else {"joint": 24}
    chosen = t.text(_arg("train_blocks"), "all")
    options = {
        kind: _arg("train_block_indices" if kind == "joint" else f"train_{kind}_block_indices") for kind in kinds
    }
    if chosen == "all" and not any(map(t.has, options.values())):
        return everywhere(rank, family)
    names: list[str] = []
    for kind, count in kinds.items():
        text = t.text(options[kind], "all")
        if chosen in ("all", kind) and text != "none":
            numbers = range(count) if text == "all" else selected(text, t.asked(options[kind]))
            names += [f"{kind}{number}" for number in numbers]
    return blocks_with_modulation(names, rank)


def _alpha(t: Translator, rank: int) -> None:
    """Set alpha: kohya's is 1 by default, and may differ for convolutions and blocks, bwlab's is one number."""
    used = _block_alphas(t, rank)
    alpha = used[0][1]
    names = ["network_alpha", _arg("block_alphas")]
    conv_dim, conv_alpha = _arg("conv_dim"), _arg("conv_alpha")
    others = [_convolutions(t, rank)] if t.has(conv_dim) or (_is_lycoris(t) and t.has(conv_alpha)) else []
    if len(used) + len(others) > 1 and all(own == alpha for own, alpha in [*used, *others]):
        t.settings.pop("adapter.alpha", None)
        return
    if len({alpha for _, alpha in used}) > 1:
        t.warn(
            _arg("block_alphas"),
            "one alpha counts for all blocks, here the first",
            "Give --alpha, or leave it to the rank",
        )
    for _, other in others:
        names.append(conv_alpha)
        if other != alpha:
            name = conv_alpha if t.has(conv_alpha) else conv_dim
            t.warn(name, f"all layers have the alpha {alpha:g}, and none {other:g}", "Give --alpha")
    t.put("adapter.alpha", alpha, *names)


def _block_alphas(t: Translator, rank: int) -> list[tuple[float, float]]:
    """Return ranks and alphas of the blocks that have any, or one pair for all of them."""
    alpha = t.number("network_alpha", 1.0) or 1.0
    if not t.has(_arg("block_alphas")):
        return [(rank, alpha)]
    length = t.text(_arg("block_alphas")).count(",") + 1
    alphas = list_of(t.text(_arg("block_alphas")), length, t.asked(_arg("block_alphas")))
    text = t.text(_arg("block_dims"))
    ranks = list_of(text, length, t.asked(_arg("block_dims"))) if text else [float(rank)] * length
    return [(own, alpha) for own, alpha in zip(ranks, alphas, strict=True) if own] or [(rank, alpha)]


class Rates:
    """Learning rates: of the denoiser, of each text encoder, and the factors of kohya's blocks.

    Args:
        denoiser: the rate of the denoiser.
        encoders: the rates of the text encoders, in order; the last one is that of all further ones.
        weights: factors of the blocks; None if all are 1.

    """

    def __init__(self, denoiser: float, encoders: list[float], weights: list[float] | None) -> None:
        self.denoiser, self.encoders, self.weights = denoiser, encoders, weights

    def encoder(self, index: int) -> float:
        """Return the rate of a text encoder."""
        return self.encoders[min(index, len(self.encoders) - 1)]


def _rates(t: Translator, family: str) -> Rates:
    common = t.number("learning_rate", 2e-6) or 0.0
    denoiser = t.number("unet_lr", common) or 0.0
    given = t.texts("text_encoder_lr")
    try:
        encoders = [float(text) for text in given]
    except ValueError:
        raise BwlabError(t.asked("text_encoder_lr"), "not a number", "Give a number, or one for each encoder") from None
    return Rates(denoiser, encoders or [common], _weights(t, family) if family not in TRANSFORMERS else None)


def _weights(t: Translator, family: str) -> list[float] | None:
    """Return the factors of the learning rates of kohya's blocks; None if none are given."""
    names = [_arg(f"{part}_lr_weight") for part in ("down", "mid", "up")]
    if not any(map(t.has, names)):
        return None
    family = _lists_for(t, family)
    side, middle = SIDES[family]
    threshold = t.number(_arg("block_lr_zero_threshold"), 0.0) or 0.0
    weights: list[float] = []
    for name, length in zip(names, (side, middle, side), strict=True):
        own = weights_of(t.text(name), length, t.asked(name)) if t.has(name) else [1.0] * length
        weights += [weight if weight > threshold or not t.has(name) else 0.0 for weight in own]
    return [1.0, *weights, 1.0] if family == "sdxl" else weights


def _encoders(t: Translator, family: str, rates: Rates) -> dict[str, float]:
    """Return the text encoders that are trained, with their rates; a rate of 0 leaves one out."""
    if t.switch("network_train_unet_only") or (t.switch("cache_text_encoder_outputs") and family == "sdxl"):
        return {}
    count = CLIP_ENCODERS[family]
    names = ["te"] if count == 1 and family == "sd" else [f"te{index + 1}" for index in range(count)]
    if family in TRANSFORMERS and t.switch(_arg("train_t5xxl")):
        names.append(f"te{count + 1}")
    return {name: rates.encoder(index) for index, name in enumerate(names) if rates.encoder(index)}


def _put_rates(t: Translator, family: str, rates: Rates, encoders: Mapping[str, float]) -> None:
    """Set the learning rate, and those of blocks and text encoders that differ from it."""
    rate = rates.denoiser or rates.encoder(0)
    t.put("training.lr", rate, "unet_lr", "learning_rate")
    names = ("text_encoder_lr", *(_arg(f"{part}_lr_weight") for part in ("down", "mid", "up")))
    others = ", ".join(f"{name}={_text(own)}" for name, own in encoders.items() if own != rate)
    if rates.weights is not None and any(weight != 1 for weight in rates.weights):
        of_blocks = [rounded(rate * weight) for weight in rates.weights]
        t.put("training.block_lr", from_kohya(of_blocks, _lists_for(t, family), "rate", encoders), *names)
    elif others:
        t.put("training.block_lr", others, *names, "learning_rate")


def _text(number: float) -> str:
    return f"{number:.9g}"


# The data


def _data(t: Translator, family: str) -> None:
    if t.has("dataset_config"):
        t.settings.pop("data.folder", None)
    _resolution(t)
    names = ("caption_extension", "caption_extention")
    extension = next((t.text(name) for name in reversed(names) if t.has(name)), ".caption")
    t.put("data.caption_extension", extension, *names)
    if t.switch("enable_bucket"):
        for name, key in (("min_bucket_reso", "data.bucket_min"), ("max_bucket_reso", "data.bucket_max")):
            t.put(key, t.whole(name, 256 if name.startswith("min") else 1024), name)
        t.put("data.bucket_step", t.whole("bucket_reso_steps", 64), "bucket_reso_steps")
        if t.switch("bucket_no_upscale"):
            t.put("data.upscale", False, "bucket_no_upscale")
    if t.has("train_data_dir") and not t.has("dataset_config"):
        t.note(
            "train_data_dir",
            "images outside of folders such as 10_fox are trained too, which kohya's trainer leaves out",
        )
    for name in ("in_json", "dataset_class"):
        if t.has(name) and not t.has("train_data_dir"):
            raise BwlabError(t.asked(name), t.rows[name].says, t.rows[name].fix)


def _resolution(t: Translator) -> None:
    if not t.has("resolution"):
        return
    value = t.values["resolution"]
    parts = [str(part) for part in value] if isinstance(value, list) else str(value).split(",")
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise BwlabError(t.asked("resolution"), "not a size or width,height", "Write 512 or 512,768")
    side = sides[0]
    if sides[0] != sides[-1]:
        side = int((sides[0] * sides[-1]) ** 0.5) // 8 * 8
        if not t.switch("enable_bucket"):
            t.warn(
                "resolution",
                f"images of a folder become squares, here of {side}",
                "Give it in a dataset file: docs/data.md",
            )
    t.put("data.resolution", side, "resolution")


# Steps and optimiser


def _steps(t: Translator, family: str) -> None:
    if t.has("max_train_epochs"):
        t.put("training.epochs", t.whole("max_train_epochs"), "max_train_epochs")
    else:
        t.put("training.steps", t.whole("max_train_steps", 1600), "max_train_steps")
    if not t.has("train_batch_size"):
        t.put("training.batch_size", 1, "train_batch_size")
    optimizers.kohya_optimizer(t, OPTIMIZERS)
    schedule = t.choose("training.schedule", "lr_scheduler", SCHEDULES, "constant", str)
    if schedule != "cosine_restarts":
        t.settings.pop("training.cycles", None)
    _warmup(t)


def _warmup(t: Translator) -> None:
    text = t.text("lr_warmup_steps", "0")
    try:
        warmup = as_number(text.removesuffix("%")) / 100 if text.endswith("%") else as_number(text)
    except ValueError:
        raise BwlabError(t.asked("lr_warmup_steps"), "not a number", "Give steps, or a share below 1") from None
    if 0 < warmup < 1:
        t.put("training.warmup_share", warmup, "lr_warmup_steps")
    elif warmup:
        t.put("training.warmup", int(warmup), "lr_warmup_steps")


# The loss


def _loss(t: Translator, family: str) -> None:
    if t.has("min_snr_gamma"):
        if family in TRANSFORMERS:
            t.warn(
                "min_snr_gamma",
                "its weights are made for diffusion, and this base is trained by flow matching",
                "Leave it out",
            )
        else:
            t.put("training.min_snr_gamma", t.number("min_snr_gamma"), "min_snr_gamma")
    if t.has("clip_skip"):
        if family == "sd":
            t.put("training.clip_skip", t.whole("clip_skip"), "clip_skip")
        else:
            t.note("clip_skip", "it has no effect with this base, in kohya's trainer neither")


def _flow(t: Translator, family: str) -> None:
    """Set how flow matching draws times."""
    if family not in TRANSFORMERS:
        return
    sampling = t.text("timestep_sampling", "sigma") if family == "flux" else "sigma"
    scheme = t.text("weighting_scheme", "uniform")
    normal = scheme == "logit_normal" if sampling == "sigma" else sampling != "uniform"
    if scheme not in ("uniform", "none", "logit_normal"):
        t.warn(
            "weighting_scheme", "times are drawn uniformly or logit-normally, and weigh the same", "Use logit_normal"
        )
    names = ("timestep_sampling", "weighting_scheme")
    t.put("training.timestep_sampling", "logit_normal" if normal else "uniform", *names)
    shifted = sampling in ("sigma", "shift")
    name = "discrete_flow_shift" if family == "flux" else "training_shift"
    shift = t.number(name, 3.0 if family == "flux" else 1.0) if shifted else 1.0
    if sampling != "flux_shift":  # that shift is what the base's scheduler gives
        t.put("training.timestep_shift", shift, name if shifted else "timestep_sampling")
    if family == "flux":
        for option, default in (("guidance_scale", 3.5), ("model_prediction_type", "sigma_scaled")):
            if not t.has(option):
                t.notes.append(f"{PROGRAM}'s --{option} is {default} by default; {t.rows[option].says}")


def _precision(t: Translator, family: str) -> None:
    precision = t.text("mixed_precision", "no")
    t.put("training.precision", "fp32" if precision == "no" else precision, "mixed_precision")


# Files


def _files(t: Translator, family: str) -> None:
    name = t.text("output_name")
    if name:
        t.put("output.name", name, "output_name")
    if t.has("output_dir"):
        folder = t.text("output_dir")
        t.put("out", str(Path(folder) / name), "output_dir", "output_name")
    dtype = t.text("save_precision", "float")
    t.put("output.dtype", "fp32" if dtype == "float" else dtype, "save_precision")
    _checkpoints(t)


def _checkpoints(t: Translator) -> None:
    epochs, steps = t.whole("save_every_n_epochs"), t.whole("save_every_n_steps")
    total, ratio = t.whole("max_train_epochs"), t.whole("save_n_epoch_ratio")
    if epochs is None and ratio and total:
        epochs = max(1, total // ratio)
    if epochs is not None:
        t.settings.pop("checkpoint.every", None)
        t.put("checkpoint.every_epochs", epochs, "save_every_n_epochs", "save_n_epoch_ratio")
        keep = t.whole("save_last_n_epochs", EVERY_CHECKPOINT)
        t.put("checkpoint.keep", max(1, keep or 1), "save_last_n_epochs")
    elif steps is not None:
        last = t.whole("save_last_n_steps")
        t.put("checkpoint.keep", EVERY_CHECKPOINT if last is None else last // steps + 1, "save_last_n_steps")
    elif ratio:
        t.warn("save_n_epoch_ratio", "the run has a number of steps", "Use save_every_n_steps")


def _previews(t: Translator, family: str) -> None:
    epochs, steps = t.whole("sample_every_n_epochs"), t.whole("sample_every_n_steps")
    if not t.has("sample_prompts") or (epochs is None and steps is None):
        t.put("preview.enabled", False, "sample_prompts")
        return
    prompts, given = read_prompts(Path(t.text("sample_prompts")), t.asked("sample_prompts"))
    t.put("preview.prompts", prompts, "sample_prompts")
    step = 16 if family in TRANSFORMERS else 8
    for key in ("preview.width", "preview.height"):
        if key in given:
            given[key] = max(step, as_whole(given[key]) // step * step)
    for key, value in {**PROMPT_DEFAULTS, **given}.items():
        t.put(key, value, "sample_prompts")
    if epochs is not None:
        t.put("preview.every_epochs", epochs, "sample_every_n_epochs")
    else:
        t.put("preview.every", steps, "sample_every_n_steps")


def _tracking(t: Translator, family: str) -> None:
    given = t.text("log_with", "tensorboard" if t.has("logging_dir") else "")
    if given:
        t.put("tracking.trackers", ["tensorboard", "wandb"] if given == "all" else [given], "log_with", "logging_dir")
