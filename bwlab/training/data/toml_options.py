"""The options of kohya's dataset files: where they may stand, and what they mean here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bwlab.training.data.framing import Size


class Level(Enum):
    """A kind of table."""

    GENERAL = "[general]"
    DATASET = "[[datasets]]"
    SUBSET = "[[datasets.subsets]]"


INSIDE = {"datasets": "datasets", "subsets": "datasets.subsets"}
ANY = frozenset(Level)
NOT_SUBSET = frozenset({Level.GENERAL, Level.DATASET})
SUBSET_ONLY = frozenset({Level.SUBSET})


@dataclass(frozen=True)
class Option:
    """What an option may be.

    Attributes:
        kind: the type of its value; None: looked at later.
        levels: the tables it may stand in.
    """

    kind: object
    levels: frozenset[Level] = ANY


@dataclass(frozen=True)
class Off:
    """An option that bwlab lacks.

    Attributes:
        values: with which it is switched off.
        fix: what to do instead.
    """

    values: tuple[object, ...]
    fix: str


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
OFF: Mapping[str, Off] = {
    "color_aug": Off((False,), TAKE_OUT),
    "face_crop_aug_range": Off((), TAKE_OUT),
    "keep_tokens_separator": Off(("",), "Use keep_tokens"),
    "secondary_separator": Off(("",), TAKE_OUT),
    "caption_separator": Off((",",), "Write captions with commas"),
    "enable_wildcard": Off((False,), "Write the captions out"),
    "token_warmup_min": Off((1,), TAKE_OUT),
    "token_warmup_step": Off((0,), TAKE_OUT),
    "resize_interpolation": Off(("lanczos",), "Take it out; pictures are resized with Lanczos"),
    "skip_image_resolution": Off((), "Take the small pictures out, or set bucket_no_upscale = true"),
    "network_multiplier": Off((1, 1.0), TAKE_OUT),
    "alpha_mask": Off((False,), TAKE_OUT),
    "custom_attributes": Off(({},), TAKE_OUT),
    "validation_seed": Off((), TAKE_OUT),
    "validation_split": Off((0, 0.0), TAKE_OUT),
    "metadata_file": Off((), "Write captions beside the images and give image_dir alone"),
    "in_json": Off((), "Write captions beside the images and give image_dir alone"),
    "conditioning_data_dir": Off((), "Train ControlNets with another tool"),
}

OPTIONS: Mapping[str, Option] = {
    "image_dir": Option(str, SUBSET_ONLY),
    "is_reg": Option(bool, SUBSET_ONLY),
    "class_tokens": Option(str),
    "num_repeats": Option(int),
    "caption_extension": Option(str),
    "caption_prefix": Option(str),
    "caption_suffix": Option(str),
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
    **{name: Option(None) for name in OFF},
}


def resolution_size(value: object) -> Size | None:
    """Return a resolution, a whole number or ``[width, height]``; None if it is none, or not 8 to 8192 pixels."""
    sides = value if isinstance(value, list) else [value, value]
    whole = [side for side in sides if type(side) is int and 8 <= side <= 8192]
    return Size(*whole) if len(sides) == len(whole) == 2 else None
