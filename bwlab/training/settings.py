"""The settings of a run, merged from a preset, a TOML file, command-line options and `--set`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.config.sources import Setting, build, merged, parse_set, read_file, setting_values
from bwlab.errors import BwlabError, did_you_mean
from bwlab.training.config import TrainConfig

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.blocks.spec import BlockSpec
    from bwlab.plugins.manager import PluginManager

PRESETS: Mapping[str, Mapping[str, object]] = {
    # Block-wise LoRA (arXiv 2403.07500), section 4: 20 images x 25 repeats, about 500 regularisation images sampled
    # from the base, 11,000 steps of 2, sampling at CFG 7. The folder and the prompt of those images, only the user
    # can give.
    "paper": {
        "adapter.type": "locon",
        "data.repeats": 25,
        "regularisation.generate": 500,
        "training.steps": 11_000,
        "training.batch_size": 2,
        "preview.every": 1000,
        "preview.steps": 25,
        "preview.cfg": 7.0,
        "checkpoint.every": 1000,
    },
}


class PresetName(StrEnum):
    """Names of `PRESETS`."""

    PAPER = "paper"


# Settings that change neither the weights nor the order of images. The base and the data are compared by their
# contents instead.
FREE = frozenset(
    {
        "base",
        "out",
        "adapter.initial",  # only where the run started
        "training.steps",  # compared as the number of steps where the schedule depends on it
        "training.epochs",
        "training.device",
        "training.gradient_checkpointing",
        "training.precision",  # compared as the precision that it means on this machine
    }
)
FREE_SECTIONS = ("output.", "data.", "regularisation.", "preview.", "checkpoint.", "tracking.")


def read_config(
    path: Path | None = None,
    preset_name: str | None = None,
    flags: Mapping[str, tuple[str, object]] | None = None,
    sets: Sequence[str] = (),
    translated: Sequence[Setting] = (),
) -> TrainConfig:
    """Return the configuration; later sources win: defaults, preset, another trainer's, file, flags, `--set`.

    Args:
        path: a TOML file.
        preset_name: one of `bwlab.training.settings.PRESETS`.
        flags: dotted key to (flag, value).
        sets: `key=value` texts.
        translated: settings that a command or a config of another trainer gives.

    Raises:
        BwlabError: an unreadable file, an unknown key (with the nearest known one) or a value it cannot have.

    """
    return build_config(collect(path, preset_name, flags or {}, sets, translated))


def collect(
    path: Path | None,
    preset_name: str | None,
    flags: Mapping[str, tuple[str, object]],
    sets: Sequence[str],
    translated: Sequence[Setting] = (),
) -> list[Setting]:
    """Return the settings of all sources, those that win last; see `read_config`.

    Raises:
        BwlabError: one source gives two settings that exclude each other, such as steps and epochs.

    """
    levels: list[list[Setting]] = []
    if preset_name is not None:
        levels.append([Setting(key, value, f"--preset {preset_name}") for key, value in preset(preset_name).items()])
    given = [read_file(path)] if path is not None else []
    given.append([Setting(key, value, flag) for key, (flag, value) in flags.items()])
    given.append([parse_set(text) for text in sets])
    levels.append(beside(translated, {setting.key for level in given for setting in level}))
    return merged(TrainConfig, [*levels, *given])


# A setting that is given -> the beginnings of translated ones that make sense only with what it replaces.
REPLACED: Mapping[str, tuple[str, ...]] = {
    "data.folder": ("data.dataset",),
    "data.dataset": ("data.folder",),
    "adapter.type": ("adapter.options.",),
    "adapter.blocks": ("training.block_lr",),
    "training.optimizer": ("training.optimizer_options.", "training.weight_decay"),
    "training.schedule": ("training.cycles",),
}


def beside(translated: Sequence[Setting], keys: Collection[str]) -> list[Setting]:
    """Return the settings of another trainer that still hold where these keys are given beside them."""
    replaced = tuple(start for key in keys for start in REPLACED.get(key, ()))
    return [setting for setting in translated if not setting.key.startswith(replaced)]


def build_config(settings: Iterable[Setting]) -> TrainConfig:
    """Return the configuration that `settings` give, the later of two for one key; see `bwlab.config.sources.build`."""
    return build(TrainConfig, settings)


def preset(name: str) -> Mapping[str, object]:
    """Return the settings of a preset by dotted key; BwlabError naming the presets if there is none of that name."""
    if name not in PRESETS:
        raise BwlabError(f"--preset {name}", "no such preset", f"Choose from: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def is_free(key: str) -> bool:
    """Return whether a setting may change when a run is resumed."""
    return key in FREE or key.startswith(FREE_SECTIONS)


def resume_invariants(config: TrainConfig, steps: int, rate: float) -> dict[str, str]:
    """Return the settings that must stay the same for a run to be resumed, by key.

    The number of steps is one of them if the learning rate schedule depends on it, whether steps or epochs give it. A
    warm-up is compared in steps, whether steps or a share of them give it.

    Args:
        config: all settings.
        steps: number of steps of the whole run.
        rate: the learning rate, whether it is set or the optimiser's usual one.

    """
    values = {**setting_values(config), "training.lr": rate, "training.warmup": config.training.warmup_steps(steps)}
    del values["training.warmup_share"]
    invariants = {key: _as_text(value) for key, value in values.items() if not is_free(key)}
    return invariants if config.training.schedule == "constant" else {**invariants, "training.steps": str(steps)}


def _as_text(value: object) -> str:
    """Return a setting's value as text, the same for the same value."""
    return str(sorted(value.items())) if isinstance(value, dict) else str(value)


def check_settings(config: TrainConfig, manager: PluginManager) -> None:
    """Raise BwlabError for mistakes that show without the base's weights: in settings, names, folders and files.

    This imports nothing heavy, so that a misspelt name costs no waiting.
    """
    from bwlab.dataset.folders import images_of, present_subsets
    from bwlab.training.sampling import check_regularisation
    from bwlab.training.tracking import check_trackers

    check_model(config, manager)
    if config.output.name in config.tokens.words:
        fix = "Choose another word, or another name with --name"
        raise BwlabError(f"tokens.words, {config.output.name!r}", "the adapter's file has that name", fix)
    check_trackers(config.tracking)
    check_regularisation(config.regularisation)
    for subset in present_subsets(config.data, config.regularisation):
        images_of(subset)


def check_model(config: TrainConfig, manager: PluginManager) -> None:
    """Raise BwlabError for mistakes in the optimiser, the format of the base and the adapter."""
    from bwlab.base.quantisation import check_quantisation

    optimizer = manager.optimizer(config.training.optimizer)
    optimizer.checked_options(config.training.optimizer_options)
    check_quantisation(config.training.quantize, config.base)
    check_adapter(config, manager)


def check_adapter(config: TrainConfig, manager: PluginManager) -> None:
    """Raise BwlabError for an unknown adapter type, option or block, or an initial adapter that cannot be read."""
    from bwlab.base.load import scheme_before_loading
    from bwlab.blocks.spec import parse_spec
    from bwlab.formats.read import read_contents

    settings = config.adapter
    adapter_type = manager.adapter_type(settings.type)
    for option, value in settings.options.items():
        if option not in adapter_type.options:
            known = ", ".join(adapter_type.options) or "none beyond rank and alpha"
            fix = f"{did_you_mean(option, adapter_type.options)}Its options: {known}"
            raise BwlabError(f"adapter.options.{option} = {value}", f"{settings.type} has no such option", fix)
    scheme = scheme_before_loading(config.base, manager.block_schemes())
    if scheme is not None and not config.tokens.alone:
        parse_spec(settings.blocks, scheme, kind="rank")
        if config.training.block_lr is not None:
            rate_spec(config.training.block_lr, scheme, 1.0)
    if settings.initial is not None:
        if not Path(settings.initial).is_file():
            found = "no such file"
            raise BwlabError(f"adapter.initial = {settings.initial}", found, "Give the path of an adapter file")
        read_contents(settings.initial, manager)


def rate_spec(text: str, scheme: BlockScheme, rate: float) -> BlockSpec:
    """Return the learning rates of `training.block_lr`, `rate` elsewhere; BwlabError for a bad spec."""
    from bwlab.blocks.spec import parse_spec

    try:
        return parse_spec(text, scheme, kind="rate", default=rate)
    except BwlabError as error:
        raise BwlabError(f"training.block_lr: {error.asked}", error.found, error.fix) from error
