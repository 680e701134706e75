"""Contact sheets: images in labelled rows and columns on white."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from bwlab.images import over_white

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WHITE = (255, 255, 255)
INK = (30, 30, 30)
FAINT = (110, 110, 110)
FRAME = (215, 215, 215)
SIDE_GAP = 16


@dataclass(frozen=True)
class SheetStyle:
    """Measures of a sheet in pixels.

    Attributes:
        tile: side of the square that each image fills.
        gap: gap between images.
        margin: margin around the sheet.
        text: height of labels.
        title: height of the title.

    """

    tile: int = 192
    gap: int = 12
    margin: int = 24
    text: int = 17
    title: int = 26

    @property
    def font(self) -> Font:
        """The font of labels."""
        return ImageFont.load_default(self.text)

    @property
    def small_font(self) -> Font:
        """The font of notes and the footer."""
        return ImageFont.load_default(round(self.text * 0.8))

    @property
    def title_font(self) -> Font:
        """The font of the title."""
        return ImageFont.load_default(self.title)


DEFAULT_STYLE = SheetStyle()


@dataclass(frozen=True)
class Label:
    """The heading of a column or row, with an optional fainter second text."""

    text: str
    note: str = ""


def contact_sheet(
    cells: Sequence[Sequence[Image.Image | None]],
    columns: Sequence[Label | str],
    rows: Sequence[Label | str] = (),
    title: str = "",
    footer: str = "",
    style: SheetStyle = DEFAULT_STYLE,
) -> Image.Image:
    """Return a sheet with `cells[row][column]` enlarged or reduced to tiles; None leaves a tile empty.

    Small images are enlarged by whole factors without smoothing, so that every pixel shows; large ones are reduced
    with a Lanczos filter.
    """
    heads = [_as_label(label) for label in columns]
    sides = [_as_label(label) for label in rows] or [Label("")] * len(cells)
    if any(len(row) != len(heads) for row in cells) or len(sides) != len(cells):
        raise ValueError(f"{len(heads)} column and {len(sides)} row labels for {[len(row) for row in cells]} cells")
    layout = _Layout.of(heads, sides, title, footer, style)
    sheet = Image.new("RGB", (layout.width, layout.height), WHITE)
    draw = ImageDraw.Draw(sheet)
    _draw_texts(draw, layout, heads, sides)
    for row, images in enumerate(cells):
        for column, image in enumerate(images):
            _place(sheet, draw, image, layout.corner(row, column), style.tile)
    return sheet


@dataclass(frozen=True)
class _Layout:
    """The positions of everything on a sheet, in pixels from the upper left corner."""

    style: SheetStyle
    title: tuple[str, ...]
    footer: tuple[str, ...]
    left: int
    top: int
    width: int
    grid_bottom: int
    height: int

    @classmethod
    def of(cls, heads: Sequence[Label], sides: Sequence[Label], title: str, footer: str, style: SheetStyle) -> _Layout:
        pitch = style.tile + style.gap
        left = style.margin + max((_side_width(label, style) for label in sides), default=0)
        width = left + len(heads) * pitch - style.gap + style.margin
        inner = width - 2 * style.margin
        title_lines, foot_lines = wrap(title, style.title_font, inner), wrap(footer, style.small_font, inner)
        heading = max((_block_height(label, style.tile, style) for label in heads), default=0)
        top = style.margin + len(title_lines) * _line(style.title_font) + heading
        grid_bottom = top + len(sides) * pitch
        height = grid_bottom - style.gap + style.margin + len(foot_lines) * _line(style.small_font)
        return cls(style, tuple(title_lines), tuple(foot_lines), left, top, width, grid_bottom, height)

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return the upper left corner of a tile."""
        pitch = self.style.tile + self.style.gap
        return self.left + column * pitch, self.top + row * pitch


def _draw_texts(draw: ImageDraw.ImageDraw, layout: _Layout, heads: Sequence[Label], sides: Sequence[Label]) -> None:
    style = layout.style
    _lines(draw, (style.margin, style.margin), layout.title, style.title_font, INK)
    for column, label in enumerate(heads):
        x, y = layout.corner(0, column)
        _heading(draw, (x, y - _block_height(label, style.tile, style)), label, style.tile, style)
    for row, label in enumerate(sides):
        place = (style.margin, layout.corner(row, 0)[1] + style.gap)
        _heading(draw, place, label, layout.left - style.margin - SIDE_GAP, style)
    _lines(draw, (style.margin, layout.grid_bottom), layout.footer, style.small_font, FAINT)


def enlarged(image: Image.Image, tile: int) -> Image.Image:
    """Return an image as RGB on white, as large as fits into a square of `tile` pixels."""
    flat = over_white(image)
    longest = max(image.size)
    if longest <= tile:
        factor = tile // longest
        return flat.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * tile / longest)), max(1, round(image.height * tile / longest)))
    return flat.resize(size, Image.Resampling.LANCZOS)


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Return `text` in lines of at most `width` pixels, broken at spaces; a longer word gets a separate line."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _as_label(label: Label | str) -> Label:
    return label if isinstance(label, Label) else Label(label)


def _line(font: Font) -> int:
    _, top, _, bottom = font.getbbox("Ag|")
    return math.ceil((bottom - top) * 1.35)


def _block_height(label: Label, width: int, style: SheetStyle) -> int:
    """Return the height of a heading in pixels, with a little space below; 0 if it is empty."""
    lines, notes = wrap(label.text, style.font, width), wrap(label.note, style.small_font, width)
    used = len(lines) * _line(style.font) + len(notes) * _line(style.small_font)
    return used + 8 if used else 0


def _side_width(label: Label, style: SheetStyle) -> int:
    """Return the width of a row's heading in pixels, at most the width of a tile; longer headings are wrapped."""
    used = math.ceil(max(style.font.getlength(label.text), style.small_font.getlength(label.note)))
    return min(used, style.tile) + SIDE_GAP if used else 0


def _heading(draw: ImageDraw.ImageDraw, place: tuple[int, int], label: Label, width: int, style: SheetStyle) -> None:
    lines = wrap(label.text, style.font, width)
    _lines(draw, place, lines, style.font, INK)
    below = (place[0], place[1] + len(lines) * _line(style.font))
    _lines(draw, below, wrap(label.note, style.small_font, width), style.small_font, FAINT)


def _lines(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: Font, colour: tuple[int, int, int]
) -> None:
    for index, line in enumerate(lines):
        draw.text((place[0], place[1] + index * _line(font)), line, fill=colour, font=font)


def _place(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: Image.Image | None,
    place: tuple[int, int],
    tile: int,
) -> None:
    """Paste an image into the middle of its tile and frame the tile; nothing is drawn for None."""
    if image is None:
        return
    x, y = place
    shown = enlarged(image, tile)
    sheet.paste(shown, (x + (tile - shown.width) // 2, y + (tile - shown.height) // 2))
    draw.rectangle((x - 1, y - 1, x + tile, y + tile), outline=FRAME)
