"""Settings of the training data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bwlab.config.model import Settings, Text

MOST_REPEATS = 100_000


class DataConfig(Settings):
    """The images and captions to train on."""

    folder: Text = ""
    """Folder of images with a caption file beside each."""

    dataset: Text | None = None
    """Dataset TOML of kohya's trainer, instead of a folder."""

    caption: Text | None = None
    """Caption of images that have none; if it is not set, the name of a `25_name` folder, and elsewhere an error."""

    caption_extension: Text = ".txt"
    """File extension of the captions; `.png.txt` stands for captions with the whole name of their image."""

    repeats: int = Field(default=1, ge=1, le=MOST_REPEATS)
    """How often each image counts in an epoch, unless the name of its folder (`25_name`) gives the number."""

    resolution: int | None = Field(default=None, ge=8, le=8192)
    """Side of the square images in pixels, or of the square with the area of all buckets; if it is not set, the
    resolution of the base."""

    skip_broken: bool = False
    """Leave unreadable images out with a warning instead of stopping."""

    cache: Text | None = None
    """Folder of the cached latents and text embeddings; if it is not set, the user's cache folder."""

    max_tokens: Literal[75, 150, 225] = 75
    """Tokens that are read of a caption, in one, two or three chunks of 75; the rest is cut."""

    shuffle_caption: bool = False
    """Shuffle the tags of a caption at each step."""

    keep_tokens: int = Field(default=0, ge=0)
    """Number of leading tags that are never shuffled nor dropped."""

    caption_dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability that an example is shown without its caption."""

    tag_dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability that a tag is left out."""

    flip: bool = False
    """Mirror an example at every other step, at random."""

    random_crop: bool = False
    """Crop images at random positions instead of at the centre."""

    buckets: bool = False
    """Train on images of several aspect ratios, each of about the area of `resolution` squared."""

    bucket_step: int = Field(default=64, ge=8, le=1024)
    """Sides of buckets are multiples of this number of pixels."""

    bucket_min: int | None = Field(default=None, ge=8, le=8192)
    """Shortest side of a bucket in pixels; if it is not set, half of `resolution`."""

    bucket_max: int | None = Field(default=None, ge=8, le=8192)
    """Longest side of a bucket in pixels; if it is not set, twice `resolution`."""

    upscale: bool = True
    """Enlarge images that are smaller than their bucket; if false, each image has a bucket that it covers."""


class RegularisationConfig(Settings):
    """Prior preservation (DreamBooth, arXiv 2208.12242, section 3.2): images of the class, sampled from the base."""

    folder: Text | None = None
    """Folder of class images with captions, shown in total as often as all other images; if it is not set, there is
    no prior preservation. Subsets of `data.dataset` may be marked `is_reg` instead."""

    weight: float = Field(default=1.0, ge=0)
    """Weight of the loss of class images beside that of the other images."""

    generate: int = Field(default=0, ge=0, le=100_000)
    """Number of class images that `folder` must hold; the base samples those that are missing."""

    prompt: Text = ""
    """Prompt of the sampled class images, and caption of images in `folder` that have none."""

    steps: int = Field(default=25, ge=1, le=1000)
    """Sampling steps of a class image."""

    cfg: float = Field(default=7.0, ge=0, le=1000)
    """Classifier-free guidance scale of the class images."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the first class image; the next images count up from it."""
