"""Buckets, and which part of an image is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from bwlab.dataset.buckets import Frame, Sizing, bucket_sizes, frame_image
from bwlab.images import Size, read_image_tensor

sides = st.integers(1, 3000)


def test_buckets_of_sd() -> None:
    found = bucket_sizes(Size(512, 512), 64, 256, 1024)
    assert Size(512, 512) in found
    assert Size(1024, 256) in found
    assert Size(576, 448) in found
    assert Size(640, 384) in found
    assert found == tuple(sorted(found))
    assert all(Size(size.height, size.width) in found for size in found)


@given(side=st.integers(8, 2000), step=st.sampled_from([8, 16, 64]))
def test_buckets_are_multiples_within_bounds(side: int, step: int) -> None:
    least, most = max(1, side // 2 // step) * step, max(1, side * 2 // step) * step
    for size in bucket_sizes(Size(side, side), step, least, most):
        assert size.width % step == size.height % step == 0
        assert least <= min(size) <= max(size) <= most
        assert size.width * size.height <= side * side or max(size) == least


@pytest.mark.parametrize("size", [(127, 127), (1000, 700), (640, 900)])
def test_what_is_not_enlarged_is_cut_where_the_frame_says(size: tuple[int, int], tmp_path: Path) -> None:
    """A picture whose colours are the places of its pixels: what is read shows where it was cut."""
    width, height = size
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    ramps = np.stack([across, down, np.zeros_like(across)], -1).round().astype(np.uint8)
    Image.fromarray(ramps).save(tmp_path / "a.png")
    frame = frame_image(Size(width, height), Sizing(Size(512, 512), 8, False, (Size(512, 512),), 64, False))
    assert frame is not None
    assert frame.cut
    found = (read_image_tensor(tmp_path / "a.png", *frame.encoded, resized=frame.resized).numpy() + 1) * 127.5
    assert found.shape == (3, frame.encoded.height, frame.encoded.width)
    top, left = frame.corner
    for ramp, first, whole, part in (
        (found[0].mean(0), left, frame.resized.width, frame.encoded.width),
        (found[1].mean(1), top, frame.resized.height, frame.encoded.height),
    ):
        ends = np.array([first, first + part - 1]) / (whole - 1) * 255
        assert ramp[[0, -1]] == pytest.approx(ends, abs=1.5)


@given(
    original=st.builds(Size, sides, sides),
    factor=st.sampled_from([4, 8]),
    random_crop=st.booleans(),
    upscale=st.booleans(),
    buckets=st.booleans(),
)
def test_the_target_lies_in_the_encoded_part(
    original: Size, factor: int, random_crop: bool, upscale: bool, buckets: bool
) -> None:
    assume(max(original) / min(original) < 50)
    size = Size(512, 512)
    sizes = bucket_sizes(size, 64, 256, 1024) if buckets else ()
    found = frame_image(original, Sizing(size, factor, random_crop, sizes, 64, upscale or not buckets))
    if found is None:
        assert min(original) < 64
        return
    assert found.target.width <= found.encoded.width <= found.resized.width
    assert found.target.height <= found.encoded.height <= found.resized.height
    assert found.encoded.width % factor == found.encoded.height % factor == 0
    covers = found.resized.width == found.target.width or found.resized.height == found.target.height
    assert covers or (not upscale and found.resized == original)
    assert 0 <= found.cropped < 1
    assert min(found.corner) >= 0
    if buckets and not upscale:
        assert not found.enlarged
        assert found.target.width * found.target.height <= size.width * size.height
    if not random_crop:
        assert found.encoded == found.target


def test_the_nearest_shape_is_chosen_alike_for_wide_and_tall() -> None:
    how = Sizing(Size(64, 64), 4, False, bucket_sizes(Size(64, 64), 16, 32, 128), 16)
    wide, tall = frame_image(Size(300, 200), how), frame_image(Size(200, 300), how)
    assert wide is not None
    assert tall is not None
    assert wide.target == Size(80, 48)
    assert tall.target == Size(48, 80)
    assert wide == Frame(Size(300, 200), Size(80, 53), Size(80, 48), Size(80, 48))
    assert wide.corner == (2, 0)
    assert wide.cropped == pytest.approx(5 / 53)


@pytest.mark.parametrize(
    ("original", "resized", "target"),
    [
        # What `BucketManager.select_bucket` of sd-scripts gives for 512 x 512 pixels and steps of 64.
        (Size(512, 512), Size(512, 512), Size(512, 512)),
        (Size(500, 500), Size(500, 500), Size(448, 448)),
        (Size(5000, 50), Size(5000, 50), None),
        (Size(5000, 100), Size(3200, 64), Size(3200, 64)),
        (Size(100, 5000), Size(64, 3200), Size(64, 3200)),
        (Size(130, 70), Size(130, 70), Size(128, 64)),
        (Size(600, 400), Size(600, 400), Size(576, 384)),
        (Size(1920, 1080), Size(683, 384), Size(640, 384)),
        (Size(1000, 1500), Size(384, 576), Size(384, 576)),
        (Size(900, 700), Size(576, 448), Size(576, 448)),
        (Size(800, 777), Size(461, 448), Size(448, 448)),
    ],
)
def test_images_that_are_not_enlarged_have_the_buckets_of_kohya(
    original: Size, resized: Size, target: Size | None
) -> None:
    how = Sizing(Size(512, 512), 8, False, bucket_sizes(Size(512, 512), 64, 256, 1024), 64, upscale=False)
    found = frame_image(original, how)
    assert (found and (found.resized, found.target)) == (target and (resized, target))
    assert frame_image(Size(130, 63), how) is None


def test_random_crops_have_the_whole_image_in_whole_latents() -> None:
    found = frame_image(Size(300, 200), Sizing(Size(64, 64), 8, random_crop=True))
    assert found == Frame(Size(300, 200), Size(96, 64), Size(96, 64), Size(64, 64))
    found = frame_image(Size(310, 200), Sizing(Size(64, 64), 8, random_crop=True))
    assert found == Frame(Size(310, 200), Size(99, 64), Size(96, 64), Size(64, 64))
    assert found.corner == (0, 1)
