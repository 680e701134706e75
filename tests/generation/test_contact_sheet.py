"""Contact sheets: where images and labels land."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops

from bwlab.generation.contact_sheet import DEFAULT_STYLE, FRAME, Label, SheetStyle, contact_sheet, enlarged, wrap

RED, BLUE = (200, 10, 20), (10, 20, 200)


def area(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    """Return how many pixels of the sheet have a colour."""
    return int((np.asarray(sheet) == colour).all(axis=-1).sum())


def box(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of all pixels of a colour."""
    y, x = np.nonzero((np.asarray(sheet) == colour).all(axis=-1))
    return int(x.min()), int(y.min()), int(x.max()), int(y.max())


def test_small_images_are_enlarged_pixel_by_pixel() -> None:
    image = Image.new("RGB", (5, 3), RED)
    image.putpixel((0, 0), BLUE)
    shown = enlarged(image, 23)
    assert shown.size == (20, 12)
    assert area(shown, BLUE) == 16
    assert area(shown, RED) == 14 * 16


def test_large_images_are_reduced_and_transparency_becomes_white() -> None:
    assert enlarged(Image.new("RGB", (512, 256), RED), 64).size == (64, 32)
    assert enlarged(Image.new("RGBA", (4, 4), (1, 2, 3, 0)), 4).getpixel((1, 1)) == (255, 255, 255)


def test_cells_stand_in_rows_and_columns() -> None:
    red, blue = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    style = SheetStyle(tile=32, gap=6, margin=10)
    sheet = contact_sheet([[red, None], [None, blue]], ["a", "b"], ["one", "two"], style=style)
    assert area(sheet, RED) == area(sheet, BLUE) == 32 * 32
    left, top, right, bottom = box(sheet, RED)
    assert box(sheet, BLUE) == (left + 38, top + 38, right + 38, bottom + 38)
    assert area(sheet, FRAME) == 2 * (4 * 33)


def test_labels_are_drawn_and_leave_the_images_alone() -> None:
    cells = [[Image.new("RGB", (64, 64), RED)] * 2]
    plain = contact_sheet(cells, ["", ""])
    told = contact_sheet(cells, [Label("full + upper", "identity all=16"), "true"], ["seed 0"], "fox x ink", "cfg 7")
    assert area(told, RED) == area(plain, RED) == 2 * 192 * 192
    assert told.width > plain.width
    assert told.height > plain.height
    assert np.asarray(told.convert("L")).min() < 60
    assert told.getpixel((0, 0)) == (255, 255, 255)


def test_a_long_row_label_is_wrapped_beside_its_image() -> None:
    cells: list[list[Image.Image | None]] = [[None]]
    short = contact_sheet(cells, ["x"], ["fox"])
    long = contact_sheet(cells, ["x"], ["ink, fox, white background, " * 5])
    assert short.width < long.width <= short.width + DEFAULT_STYLE.tile
    tile = (long.width - DEFAULT_STYLE.margin - DEFAULT_STYLE.tile, 60, long.width, long.height)
    assert ImageChops.invert(long.crop(tile)).getbbox() is None


def test_wrap_breaks_at_spaces_only() -> None:
    font = DEFAULT_STYLE.font
    lines = wrap("one two three incomprehensibilities", font, 80)
    assert " ".join(lines) == "one two three incomprehensibilities"
    assert lines[-1] == "incomprehensibilities"
    assert all(font.getlength(line) <= 80 for line in lines[:-1])
    assert wrap("", font, 80) == []


def test_cells_that_do_not_match_the_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="1 column"):
        contact_sheet([[None, None]], ["a"])
