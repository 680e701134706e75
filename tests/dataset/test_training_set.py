"""Micro-batches: crops, mirrored images, captions, weights and sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from bwlab.dataset.training_set import SampledBatch, TrainingSet
from bwlab.errors import BwlabError
from bwlab.images import read_image_tensor
from tests.dataset.loaded import load, settings

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes captioned images of given sizes and returns their folder."""

    def write(folder: str = "data", caption: str = "a, b, c", **sizes: tuple[int, int]) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, (width, height) in sizes.items():
            generator = np.random.default_rng([width, height, len(name)])
            pixels = generator.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((width, height)).save(tmp_path / folder / f"{name}.png")
            (tmp_path / folder / f"{name}.txt").write_text(caption)
        return tmp_path / folder

    return write


def same_batch(one: SampledBatch, other: SampledBatch) -> bool:
    plain = one.indices == other.indices and one.captions == other.captions
    tensors = ("means", "deviations", "weights", "sizes")
    return plain and all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)


EVERYTHING = (
    "data.buckets=true",
    "data.bucket_step=8",
    "data.flip=true",
    "data.random_crop=true",
    "data.shuffle_caption=true",
    "data.caption_dropout=0.2",
)


def test_a_batch_is_a_function_of_its_number(pipe: Pipeline, write: Write) -> None:
    folder = write(square=(40, 40), wide=(60, 30), tall=(30, 65), wider=(64, 32))
    first, _ = load(settings(folder, *EVERYTHING), pipe)
    second, _ = load(settings(folder, *EVERYTHING), pipe)
    later = [second.sample(batch, 3, 0) for batch in (5, 2)]
    assert same_batch(first.sample(2, 3, 0), later[1])
    assert same_batch(first.sample(5, 3, 0), later[0])
    assert not same_batch(first.sample(5, 3, 1), later[0])
    assert first.all_captions() is None


def test_batches_have_the_latents_of_their_bucket(pipe: Pipeline, write: Write) -> None:
    folder = write(square=(40, 40), wide=(60, 30), tall=(30, 65))
    data, _ = load(settings(folder, "data.buckets=true", "data.bucket_step=8"), pipe)
    seen = set()
    for batch in range(6):
        drawn = data.sample(batch, 2, 0)
        (name,) = {data.examples[index].path.stem for index in drawn.indices}
        target = data.images[drawn.indices[0]].frame.target
        assert drawn.means.shape == drawn.deviations.shape == (2, 4, target.height // 4, target.width // 4)
        image = read_image_tensor(folder / f"{name}.png", *target)
        with torch.no_grad():
            mean = pipe.vae.encode(image[None]).latent_dist.mean * pipe.vae.config.scaling_factor
        torch.testing.assert_close(drawn.means[:1], mean)
        seen.add(target)
    assert len(seen) == 3


def test_half_of_the_examples_are_mirrored_and_encoded_so(pipe: Pipeline, write: Write) -> None:
    folder = write(square=(40, 40))
    data, _ = load(settings(folder, "data.flip=true"), pipe)
    scale = pipe.vae.config.scaling_factor
    with torch.no_grad():
        plain, mirrored = (
            pipe.vae.encode(read_image_tensor(folder / "square.png", 32, mirrored=flip)[None]).latent_dist.mean[0]
            * scale
            for flip in (False, True)
        )
    drawn = data.sample(0, 200, 0)
    is_plain = [torch.allclose(mean, plain, atol=1e-5) for mean in drawn.means]
    is_mirrored = [torch.allclose(mean, mirrored, atol=1e-5) for mean in drawn.means]
    assert all(one != other for one, other in zip(is_plain, is_mirrored, strict=True))
    assert 70 < sum(is_mirrored) < 130


def test_random_crops_are_parts_of_the_whole_image(xl_pipe: Pipeline, write: Write) -> None:
    folder = write(wide=(120, 60))
    data, _ = load(settings(folder, "data.random_crop=true"), xl_pipe)
    whole = data.images[0].plain
    assert whole.mean.shape == (4, 8, 16)
    drawn = data.sample(0, 100, 0)
    lefts = set()
    for mean, deviation, sizes in zip(drawn.means, drawn.deviations, drawn.sizes.tolist(), strict=True):
        assert sizes[:2] + sizes[4:] == [60, 120, 32, 32]
        top, left = int(sizes[2]) // 4, int(sizes[3]) // 4
        assert top == 0
        assert torch.equal(mean, whole.mean[:, :, left : left + 8])
        assert torch.equal(deviation, whole.deviation[:, :, left : left + 8])
        lefts.add(left)
    assert lefts == set(range(9))


def test_the_corner_of_a_centre_crop_is_a_condition(xl_pipe: Pipeline, write: Write) -> None:
    data, _ = load(settings(write(tall=(60, 120))), xl_pipe)
    assert data.sample(0, 1, 0).sizes.tolist() == [[120, 60, 16, 0, 32, 32]]


def test_regularisation_has_its_own_weight_and_comes_as_often(pipe: Pipeline, write: Write) -> None:
    folder, old = write(new=(40, 40)), write("old", "class", one=(33, 33), two=(35, 35), three=(37, 37))
    sets = f"regularisation.folder={old}", "regularisation.weight=0.25", "data.repeats=10"
    data, _ = load(settings(folder, *sets), pipe)
    drawn = data.sample(0, 60, 0)
    kinds = [data.examples[index].regularisation for index in drawn.indices]
    assert sum(kinds) == 30
    assert drawn.weights.tolist() == [0.25 if kind else 1.0 for kind in kinds]
    assert {caption for caption, kind in zip(drawn.captions, kinds, strict=True) if kind} == {"class"}
    assert data.distinct_captions() == ["a, b, c"]
    assert data.all_captions() == frozenset({"a, b, c", "class"})
    lasting = data.resume_invariants()
    other, _ = load(settings(folder, *sets, "regularisation.weight=0.5"), pipe)
    changed = {key for key, value in other.resume_invariants().items() if value != lasting[key]}
    assert changed == {"regularisation.weight"}


@pytest.mark.parametrize(
    "changed", ["data.flip=true", "data.random_crop=true", "data.shuffle_caption=true", "data.repeats=2"]
)
def test_what_changes_the_examples_must_last(pipe: Pipeline, write: Write, changed: str) -> None:
    folder = write(square=(40, 40))
    data, other = (load(settings(folder, *sets), pipe)[0] for sets in ((), (changed,)))
    assert data.resume_invariants() != other.resume_invariants()


def test_dropped_captions_have_an_end(pipe: Pipeline, write: Write) -> None:
    data, _ = load(settings(write(square=(40, 40)), "data.caption_dropout=0.5"), pipe)
    assert data.all_captions() == frozenset({"a, b, c", ""})
    assert set(data.sample(0, 50, 0).captions) == {"a, b, c", ""}


def sized(pipe: Pipeline, write: Write, *sets: str) -> TrainingSet:
    return load(settings(write(square=(40, 40)), *sets), pipe)[0]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ("data.bucket_step=10",),
            "data.bucket_step = 10: .*squares of 4 x 4 pixels. Give a multiple of 4, such as 8",
        ),
        (("data.bucket_min=12",), "data.bucket_min = 12: data.bucket_step is 8. Give a multiple of 8, such as 16"),
        (("data.bucket_min=64", "data.bucket_max=64"), "no bucket has sides of 64 to 64"),
        (("data.upscale=false", "data.resolution=96", "data.bucket_step=48"), "40 x 40 pixels, less than one step"),
    ],
)
def test_impossible_sizes_are_an_error(pipe: Pipeline, write: Write, sets: tuple[str, ...], message: str) -> None:
    with pytest.raises(BwlabError, match=message):
        sized(pipe, write, "data.buckets=true", "data.bucket_step=8", *sets)
