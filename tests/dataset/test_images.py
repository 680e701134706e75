"""Image files of every kind as images."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from bwlab import images
from bwlab.errors import BwlabError
from bwlab.images import Size, UnreadableImage, image_size, read_image, read_image_tensor, read_images
from tests.dataset.files import write_png16
from tests.dataset.small_data import WriteData

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def half_clear(width: int = 13, height: int = 11) -> Image.Image:
    """Return an RGBA image: red on the left, on the right a black that is not seen."""
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[:, :6] = (255, 0, 0, 255)
    return Image.fromarray(pixels)


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    half_clear().save(tmp_path / "a.png")
    image = read_image_tensor(tmp_path / "a.png", 13, 11)
    assert image.shape == (3, 11, 13)
    assert image.dtype is torch.float32
    assert image[:, 5, 2].tolist() == [1.0, -1.0, -1.0]
    assert image[:, 5, 10].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "mode", "left"),
    [
        ("a.png", "LA", (76, 76, 76)),
        ("a.png", "P", RED),
        ("a.gif", "RGBA", RED),
        ("a.webp", "RGBA", RED),
    ],
)
def test_every_kind_of_transparency_becomes_white(
    tmp_path: Path, name: str, mode: str, left: tuple[int, int, int]
) -> None:
    image = half_clear().quantize(3) if mode == "P" else half_clear()
    image.convert(mode).save(tmp_path / name, lossless=True)
    found = read_image(tmp_path / name)
    assert (found.getpixel((2, 5)), found.getpixel((10, 5))) == (left, WHITE)


def test_a_colour_may_be_named_transparent(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5), BLUE).save(tmp_path / "a.png", transparency=BLUE)
    assert read_image(tmp_path / "a.png").getpixel((3, 3)) == WHITE


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_reads_as_colour(tmp_path: Path, mode: str) -> None:
    grey = Image.new("L", (11, 11), 128)
    image = Image.fromarray(np.full((11, 11), 128 << 8, np.uint16)) if mode == "I;16" else grey.convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    tensor = read_image_tensor(path, 11)
    assert tensor.shape == (3, 11, 11)
    if mode != "1":
        assert tensor.mean() == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_a_channel_keep_their_brightness(tmp_path: Path, channels: int) -> None:
    pixels = np.full((5, 7, channels), 200 << 8, np.uint16)
    if channels in (2, 4):
        pixels[..., -1] = 0xFFFF
    write_png16(tmp_path / "a.png", pixels)
    assert read_image(tmp_path / "a.png").getpixel((3, 3)) == (200, 200, 200)


def test_numbers_that_are_no_colours_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 7), 0.5, np.float32)).save(tmp_path / "a.tiff")
    (tmp_path / "a.tiff").rename(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="pixels of mode F, which are no colours"):
        read_image(tmp_path / "a.png")


def test_a_cmyk_file_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), RED).convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    found = np.asarray(read_image(tmp_path / "a.jpg"), int)
    assert np.abs(found - RED).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:4, :8] = 255
    upright = Image.fromarray(pixels)
    # What a camera held in another way writes down: the inverse of what EXIF tells to do.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.png", "a.webp"):
        stored.save(tmp_path / name, exif=exif, quality=100)
        assert image_size(tmp_path / name) == Size(16, 8)
        found = np.asarray(read_image(tmp_path / name).convert("L"), int)
        assert np.abs(found - np.asarray(upright.convert("L"), int)).max() <= 40, name


def swapped_profile() -> bytes:
    """Return an RGB profile in which red and blue have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    entries = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_a_profile_are_brought_to_srgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (7, 5), RED).convert(mode)
    image.save(tmp_path / "a.png", icc_profile=swapped_profile())
    found = np.asarray(read_image(tmp_path / "a.png"), int)
    assert np.abs(found - BLUE).max() <= 3


@pytest.mark.parametrize("profile", [b"nonsense", swapped_profile()[:200]])
def test_a_profile_that_is_broken_counts_as_none(tmp_path: Path, profile: bytes) -> None:
    Image.new("RGB", (7, 5), RED).save(tmp_path / "a.png", icc_profile=profile)
    assert read_image(tmp_path / "a.png").getpixel((3, 3)) == RED


def test_a_profile_of_other_colours_counts_as_none(tmp_path: Path) -> None:
    Image.new("L", (7, 5), 100).save(tmp_path / "a.png", icc_profile=swapped_profile())
    assert read_image(tmp_path / "a.png").getpixel((3, 3)) == (100, 100, 100)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_the_first_image_of_an_animation_counts(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (7, 5), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(tmp_path / name).getpixel((3, 3)) == RED


def test_the_centre_of_a_wide_image_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image_tensor(tmp_path / "a.png", 10).min() == 1.0


def test_an_image_may_be_mirrored(tmp_path: Path) -> None:
    half_clear().save(tmp_path / "a.png")
    mirrored = read_image_tensor(tmp_path / "a.png", 13, 11, mirrored=True)
    assert torch.equal(mirrored, read_image_tensor(tmp_path / "a.png", 13, 11).flip(2))


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_a_broken_image_is_named(write_data: WriteData, content: bytes | str) -> None:
    path = write_data({"a.png": "fox"}) / "a.png"
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:60])
    with pytest.raises(UnreadableImage, match=r"image .*a\.png: unreadable"):
        read_image_tensor(path, 16)


def test_a_jpeg_that_ends_early_is_broken(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-300])
    with pytest.raises(UnreadableImage, match="truncated"):
        read_image(tmp_path / "a.jpg")
    assert image_size(tmp_path / "a.jpg") == Size(64, 64)


def png_of(width: int, height: int) -> bytes:
    """Return a PNG whose header promises a size, and that ends there."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    checked = header + zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + checked + (0).to_bytes(4, "big") + b"IDAT"


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_001), (13_001, 13_001), (60_000, 60_000)])
def test_images_of_too_many_pixels_are_not_decoded(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_of(width, height))
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImage, match=r"image .*large\.png: unreadable \(.*more than 100 million pixels\)"):
            read(path)
    with pytest.raises(BwlabError, match=r"reference image .*large\.png: .*more than 100 million pixels"):
        read_images(tmp_path)


def test_images_of_as_many_pixels_as_allowed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_clear().save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 143)
    assert read_image(tmp_path / "a.png").size == image_size(tmp_path / "a.png") == (13, 11)
    monkeypatch.setattr(images, "MOST_PIXELS", 142)
    with pytest.raises(UnreadableImage, match="13 x 11, more than"):
        read_image(tmp_path / "a.png")


def test_what_is_read_does_not_depend_on_the_file_any_more(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        path = tmp_path / f"a.{kind.lower()}"
        path.write_bytes(whole_file(kind))
        image = read_image(path)
        path.write_bytes(b"")
        assert np.asarray(image).shape == (image.height, image.width, 3)
        assert image.copy().mode == "RGB"


def whole_file(kind: str) -> bytes:
    """Return a small file of a kind."""
    buffer = io.BytesIO()
    half_clear().convert("RGB").save(buffer, kind, **({"icc_profile": swapped_profile()} if kind != "BMP" else {}))
    return buffer.getvalue()


@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=5),
    end=st.none() | st.integers(0, 2**16),
)
def test_damaged_bytes_are_an_image_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[int, int]], end: int | None
) -> None:
    content = bytearray(whole_file(kind))
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path_factory.mktemp("fuzz") / "a.png"
    path.write_bytes(content if end is None else content[: end % len(content)])
    told = ""
    try:
        image_size(path)
        assert read_image_tensor(path, 8, 4).isfinite().all()
    except UnreadableImage as error:
        told = str(error)
    assert "\n" not in told
