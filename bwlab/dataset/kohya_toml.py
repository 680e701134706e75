"""Dataset files as kohya's trainer reads them (sd-scripts, docs/config_README-en.md), in TOML.

Options stand in `[general]`, `[[datasets]]` and `[[datasets.subsets]]`; the innermost wins, and the settings `data.*`
are the defaults. An option that bwlab lacks is an error unless it is switched off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from bwlab.config.model import SettingError, Text, checked
from bwlab.config.sources import read_tables
from bwlab.dataset.config import DataConfig
from bwlab.dataset.examples import Subset
from bwlab.errors import BwlabError, did_you_mean
from bwlab.images import Size

Table = Mapping[str, object]


class OptionValue(NamedTuple):
    """The value of an option, and the table that it comes from, for messages."""

    value: Any
    origin: str


Options = dict[str, OptionValue]

INSIDE = {"datasets": "datasets", "subsets": "datasets.subsets"}


class Level(Enum):
    """A kind of table."""

    GENERAL = "[general]"
    DATASET = "[[datasets]]"
    SUBSET = "[[datasets.subsets]]"


ANY = frozenset(Level)
NOT_SUBSET = frozenset({Level.GENERAL, Level.DATASET})
SUBSET_ONLY = frozenset({Level.SUBSET})

# Options that are settings of `DataConfig`, by their name there.
SETTINGS: Mapping[str, str] = {
    "image_dir": "folder",
    "num_repeats": "repeats",
    "class_tokens": "caption",
    "caption_extension": "caption_extension",
    "shuffle_caption": "shuffle_caption",
    "keep_tokens": "keep_tokens",
    "caption_dropout_rate": "caption_dropout",
    "caption_tag_dropout_rate": "tag_dropout",
    "flip_aug": "flip",
    "random_crop": "random_crop",
    "enable_bucket": "buckets",
    "bucket_reso_steps": "bucket_step",
    "min_bucket_reso": "bucket_min",
    "max_bucket_reso": "bucket_max",
}

WITHOUT_EFFECT: Mapping[str, str] = {
    "batch_size": "has no effect; training.batch_size counts for all",
}

TAKE_OUT = "Take it out"


@dataclass(frozen=True)
class Unsupported:
    """An option that bwlab lacks.

    Attributes:
        values: values with which the option is switched off.
        fix: what to do instead.

    """

    values: tuple[object, ...]
    fix: str


UNSUPPORTED: Mapping[str, Unsupported] = {
    "color_aug": Unsupported((False,), TAKE_OUT),
    "face_crop_aug_range": Unsupported((), TAKE_OUT),
    "keep_tokens_separator": Unsupported(("",), "Use keep_tokens"),
    "secondary_separator": Unsupported(("",), TAKE_OUT),
    "caption_separator": Unsupported((",",), "Write captions with commas"),
    "enable_wildcard": Unsupported((False,), "Write the captions out"),
    "token_warmup_min": Unsupported((1,), TAKE_OUT),
    "token_warmup_step": Unsupported((0,), TAKE_OUT),
    "resize_interpolation": Unsupported(("lanczos",), "Take it out; images are resized with Lanczos"),
    "skip_image_resolution": Unsupported((), "Take the small images out, or set bucket_no_upscale = true"),
    "network_multiplier": Unsupported((1, 1.0), TAKE_OUT),
    "alpha_mask": Unsupported((False,), TAKE_OUT),
    "custom_attributes": Unsupported(({},), TAKE_OUT),
    "validation_seed": Unsupported((), TAKE_OUT),
    "validation_split": Unsupported((0, 0.0), TAKE_OUT),
    "metadata_file": Unsupported((), "Write captions beside the images and give image_dir alone"),
    "in_json": Unsupported((), "Write captions beside the images and give image_dir alone"),
    "conditioning_data_dir": Unsupported((), "Train ControlNets with another tool"),
}


@dataclass(frozen=True)
class Option:
    """Type and place of an option.

    Attributes:
        kind: the type of its value; None if it is checked later.
        levels: the tables in which it may stand.

    """

    kind: Any  # a type, or what pydantic takes for one
    levels: frozenset[Level] = ANY


OPTIONS: Mapping[str, Option] = {
    "image_dir": Option(Text, SUBSET_ONLY),
    "is_reg": Option(bool, SUBSET_ONLY),
    "class_tokens": Option(Text),
    "num_repeats": Option(int),
    "caption_extension": Option(Text),
    "caption_prefix": Option(Text),
    "caption_suffix": Option(Text),
    "shuffle_caption": Option(bool),
    "keep_tokens": Option(int),
    "caption_dropout_rate": Option(float),
    "caption_tag_dropout_rate": Option(float),
    "caption_dropout_every_n_epochs": Option(int),
    "flip_aug": Option(bool),
    "random_crop": Option(bool),
    "cache_info": Option(bool),  # only how fast kohya's trainer starts
    "batch_size": Option(int, NOT_SUBSET),
    "resolution": Option(None, NOT_SUBSET),
    "enable_bucket": Option(bool, NOT_SUBSET),
    "bucket_reso_steps": Option(int, NOT_SUBSET),
    "min_bucket_reso": Option(int, NOT_SUBSET),
    "max_bucket_reso": Option(int, NOT_SUBSET),
    "bucket_no_upscale": Option(bool, NOT_SUBSET),
    **{name: Option(None) for name in UNSUPPORTED},
}


def read_dataset_toml(path: Path, config: DataConfig) -> tuple[Subset, ...]:
    """Return the folders of a dataset file, without reading them.

    Args:
        path: the dataset file.
        config: defaults for all that the file does not say.

    Raises:
        BwlabError: the file cannot be read or has a mistake; the error for an unknown key has the nearest known one.

    """
    tables = _tables(path)
    check_keys(tables, {"general", "datasets"}, str(path))
    general = options_of(one_table(tables.get("general", {}), f"{path}: general"), Level.GENERAL, f"{path}: general")
    folders = tuple(
        subset
        for number, dataset in enumerate(tables_in(tables, "datasets", str(path)))
        for subset in dataset_subsets(dataset, f"{path}: datasets[{number}]", general, config)
    )
    if all(subset.regularisation for subset in folders):
        raise BwlabError(f"data.dataset = {path}", "every subset is marked is_reg", "Add one that is not")
    return folders


def is_dataset_toml(path: Path) -> bool:
    """Return whether a TOML file is a dataset file, and not the settings of a run; BwlabError if it is not TOML."""
    return bool({"datasets", "general"} & _tables(path).keys())


def _tables(path: Path) -> Table:
    return read_tables(path, f"data.dataset = {path}", "dataset TOML")


def dataset_subsets(dataset: Table, origin: str, general: Options, config: DataConfig) -> Iterator[Subset]:
    """Yield the folders of one dataset; BwlabError for one given twice, of which kohya's trainer ignores the second."""
    plain = {key: value for key, value in dataset.items() if key != "subsets"}
    outer = general | options_of(plain, Level.DATASET, origin)
    folders: set[Path] = set()
    for number, table in enumerate(tables_in(dataset, "subsets", origin)):
        inner = f"{origin}.subsets[{number}]"
        subset = new_subset(outer | options_of(table, Level.SUBSET, inner), inner, config)
        folder = Path(subset.settings.folder).resolve()
        if folder in folders:
            raise BwlabError(f"{inner}: image_dir = {folder}", "this dataset has it already", "Raise its num_repeats")
        folders.add(folder)
        yield subset


def tables_in(table: Table, key: str, origin: str) -> Sequence[Table]:
    """Return an array of tables, which must not be empty."""
    tables = table.get(key)
    if not isinstance(tables, list) or not tables:
        raise BwlabError(origin, f"it has no [[{INSIDE[key]}]]", "Add one, as kohya's config_README describes")
    return [one_table(entry, f"{origin}: {key}[{number}]") for number, entry in enumerate(tables)]


def one_table(value: object, origin: str) -> Table:
    """Return a value if it is a table; BwlabError otherwise."""
    if not isinstance(value, dict):
        raise BwlabError(origin, f"{value!r} is not a table", "Write it as kohya's config_README describes")
    return value


def check_keys(table: Table, known: set[str], origin: str) -> None:
    """Raise BwlabError, with the nearest known key, for an unknown key."""
    for key in table:
        if key not in known:
            fix = did_you_mean(key, known).rstrip() or f"Known are {', '.join(sorted(known))}"
            raise BwlabError(f"{origin}: {key}", "unknown option", fix)


def options_of(table: Table, level: Level, origin: str) -> Options:
    """Return the checked options of one table; BwlabError for one that is unknown, elsewhere or of the wrong kind."""
    check_keys(table, set(OPTIONS), origin)
    options: Options = {}
    for key, value in table.items():
        option = OPTIONS[key]
        if level not in option.levels:
            allowed_levels = " or ".join(sorted(allowed.value for allowed in option.levels))
            raise BwlabError(f"{origin}: {key}", "it is not allowed there", f"Put it into {allowed_levels}")
        try:
            options[key] = OptionValue(value if option.kind is None else checked(key, value, option.kind), origin)
        except SettingError as error:
            raise BwlabError(f"{origin}: {error.asked}", error.found, error.fix) from error
    return options


def new_subset(options: Options, origin: str, config: DataConfig) -> Subset:
    """Return one folder with its settings; BwlabError for a value out of range or an option that bwlab lacks."""
    for key in UNSUPPORTED.keys() & options.keys():
        if options[key].value not in UNSUPPORTED[key].values:
            raise BwlabError(
                f"{options[key].origin}: {key} = {options[key].value!r}", "bwlab lacks it", UNSUPPORTED[key].fix
            )
    if "image_dir" not in options:
        raise BwlabError(f"{origin}: image_dir", "it is missing", "Give the folder of the images")
    return Subset(
        settings=folder_settings(options, config),
        asked=f"{origin}: image_dir = {options['image_dir'].value}",
        regularisation=chosen(options, "is_reg", False),
        recursive=False,
        shape=shape_of(options),
        dropout_epochs=max(0, chosen(options, "caption_dropout_every_n_epochs", 0)),
        prefix=chosen(options, "caption_prefix", ""),
        suffix=chosen(options, "caption_suffix", ""),
        notes=tuple(f"{options[key].origin}: {key} {WITHOUT_EFFECT[key]}" for key in WITHOUT_EFFECT if key in options),
    )


def chosen(options: Options, key: str, default: Any) -> Any:  # as its kind in OPTIONS says
    """Return the value of an option, or `default`."""
    return options[key].value if key in options else default


def folder_settings(options: Options, config: DataConfig) -> DataConfig:
    """Return the settings of one folder; BwlabError, with the option's own name, for a value out of range."""
    values = {SETTINGS[key]: given.value for key, given in options.items() if key in SETTINGS}
    if "bucket_no_upscale" in options:
        values["upscale"] = not options["bucket_no_upscale"].value
    if "resolution" in options and shape_of(options) is None:
        values["resolution"] = resolution_size(options["resolution"].value).width  # type: ignore[union-attr]
    try:
        return config.replace(**{"dataset": None, **values})
    except SettingError as error:
        key = next((key for key, field in SETTINGS.items() if field == error.key and key in options), "resolution")
        raise BwlabError(f"{options[key].origin}: {key} = {options[key].value}", error.found, error.fix) from error


def shape_of(options: Options) -> Size | None:
    """Return the resolution if it is not square; BwlabError if the value is no resolution."""
    if "resolution" not in options:
        return None
    value, origin = options["resolution"]
    size = resolution_size(value)
    if size is None:
        fix = "Give a whole number of 8 to 8192, or [width, height]"
        raise BwlabError(f"{origin}: resolution = {value!r}", "not a resolution", fix)
    return None if size.width == size.height else size


def resolution_size(value: object) -> Size | None:
    """Return the size of a number or `[width, height]`; None if that is no resolution of 8 to 8192 pixels."""
    sides = value if isinstance(value, list) else [value, value]
    whole = [side for side in sides if type(side) is int and 8 <= side <= 8192]
    return Size(*whole) if len(sides) == len(whole) == 2 else None
