"""The settings of what an adapter is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from bwlab.config.fields import Section, bounded, maybe


@dataclass(frozen=True)
class DataConfig(Section):
    """What it is trained on.

    Attributes:
        folder: images with a caption file beside each.
        dataset: a dataset TOML as kohya's trainer reads it, instead of a folder.
        caption: the caption of images that have none; without it that is the name of a `25_name` folder, and
            elsewhere an error.
        caption_extension: of the caption files.
        repeats: times each image counts in an epoch, unless its folder is named `25_name` and so says it.
        resolution: side of the square pictures in pixels, or of the square with the area of all buckets; none means
            the base's own.
        skip_broken: leave unreadable images out with a warning instead of stopping.
        cache: folder of the latents and text embeddings; none means the user's cache folder.
        shuffle_caption: shuffle the tags of a caption at each step.
        keep_tokens: first tags that are never shuffled nor dropped.
        caption_dropout: probability 0..1 that an example is shown without its caption.
        tag_dropout: probability 0..1 that a tag is left out.
        flip: show an example mirrored at every other step, at random.
        random_crop: crop pictures at random places instead of at the centre.
        buckets: train on pictures of several aspect ratios, each of about the area of `resolution` squared.
        bucket_step: sides of buckets are multiples of this many pixels.
        bucket_min: least side of a bucket in pixels; none means half of `resolution`.
        bucket_max: greatest side of a bucket in pixels; none means twice `resolution`.
        upscale: enlarge pictures that are smaller than their bucket; false puts them into a smaller one.

    """

    folder: str = ""
    dataset: str | None = None
    caption: str | None = None
    caption_extension: str = ".txt"
    repeats: int = bounded(1, least=1, most=100_000)
    resolution: int | None = maybe(least=8, most=8192)
    skip_broken: bool = False
    cache: str | None = None
    shuffle_caption: bool = False
    keep_tokens: int = bounded(0, least=0)
    caption_dropout: float = bounded(0.0, least=0.0, most=1.0)
    tag_dropout: float = bounded(0.0, least=0.0, most=1.0)
    flip: bool = False
    random_crop: bool = False
    buckets: bool = False
    bucket_step: int = bounded(64, least=8, most=1024)
    bucket_min: int | None = maybe(least=8, most=8192)
    bucket_max: int | None = maybe(least=8, most=8192)
    upscale: bool = True


@dataclass(frozen=True)
class RegularisationConfig(Section):
    """Prior preservation (DreamBooth, arXiv 2208.12242, section 3.2): pictures of the class, as the base draws them.

    Attributes:
        folder: class images with captions, shown in total as often as all others; none trains without them. Subsets
            of `data.dataset` may be marked `is_reg` instead.
        weight: of their loss beside that of the other pictures.
        generate: have the base draw this many into `folder`, as far as they are not there; 0 draws none.
        prompt: what it draws, and the caption of images in `folder` that have none.
        steps: sampling steps.
        cfg: classifier-free guidance.
        seed: of the first picture; the next ones count up.

    """

    folder: str | None = None
    weight: float = bounded(1.0, least=0.0)
    generate: int = bounded(0, least=0, most=100_000)
    prompt: str = ""
    steps: int = bounded(25, least=1, most=1000)
    cfg: float = bounded(7.0, least=0.0, most=1000.0)
    seed: int = bounded(0, least=0, most=2**63 - 1)
