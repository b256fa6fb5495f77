"""Sheets of pictures with labels: seeds in a grid, and seeds against truncation strengths."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from sg3flow.rendering.images import Image

_BACKGROUND, _INK = (255, 255, 255), (30, 30, 30)
_MIN_TILE = 128
_GAP = 4


def seed_sheet(images: Sequence[Image], labels: Sequence[str], columns: int = 0) -> Image:
    """A grid of pictures, each with its label below.

    Args:
        images: pictures [H, W, C] of one size.
        labels: one text a picture.
        columns: pictures a row; 0: somewhat wider than high.

    Returns:
        the sheet, [H, W, 3].
    """
    tiles = [_tile(image) for image in images]
    columns = columns or math.ceil(math.sqrt(len(tiles) * 1.5))
    side, font = tiles[0].shape[0], _font(tiles[0].shape[0])
    strip = _line_height(font)
    rows = math.ceil(len(tiles) / columns)
    sheet, draw = _blank(columns * (side + _GAP) + _GAP, rows * (side + strip + _GAP) + _GAP)
    for i, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x = _GAP + i % columns * (side + _GAP)
        y = _GAP + i // columns * (side + strip + _GAP)
        sheet.paste(PillowImage.fromarray(tile), (x, y))
        text = _fitted(draw, label, font, side)
        draw.text((x + side / 2, y + side + strip / 2), text, _INK, font, anchor="mm")
    return np.asarray(sheet)


def table_sheet(
    rows: Sequence[Sequence[Image]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> Image:
    """A table of pictures with its labels in the left and upper margin.

    Args:
        rows: pictures [H, W, C] of one size, as many in each row as there are column labels.

    Returns:
        the sheet, [H, W, 3].
    """
    side = _tile(rows[0][0]).shape[0]
    font = _font(side)
    top = _line_height(font) + _GAP
    left = math.ceil(max(font.getlength(label) for label in row_labels)) + 4 * _GAP
    step = side + _GAP
    sheet, draw = _blank(left + len(column_labels) * step, top + len(rows) * step)
    for column, label in enumerate(column_labels):
        draw.text((left + column * step + side / 2, top / 2), label, _INK, font, anchor="mm")
    for row, (images, label) in enumerate(zip(rows, row_labels, strict=True)):
        y = top + row * step
        draw.text((left - 2 * _GAP, y + side / 2), label, _INK, font, anchor="rm")
        for column, image in enumerate(images):
            sheet.paste(PillowImage.fromarray(_tile(image)), (left + column * step, y))
    return np.asarray(sheet)


def enlarged(image: Image, min_side: int) -> Image:
    """The picture as RGB, [H, W, 3], each pixel repeated until the side is ``min_side`` or more."""
    times = math.ceil(min_side / image.shape[0])
    image = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    return image.repeat(times, axis=0).repeat(times, axis=1)


def _tile(image: Image) -> Image:
    return enlarged(image, _MIN_TILE)


def _font(side: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(16, side // 12))


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    box = font.getbbox("Ag09")
    return math.ceil(box[3] * 1.25)


def _fitted(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


def _blank(width: int, height: int) -> tuple[PillowImage.Image, ImageDraw.ImageDraw]:
    sheet = PillowImage.new("RGB", (width, height), _BACKGROUND)
    return sheet, ImageDraw.Draw(sheet)
