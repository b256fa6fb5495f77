"""Sheets of labeled images: grids of seeds, and tables of seeds by truncation psi."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from sg3flow.errors import ConfigError
from sg3flow.rendering.conditions import Condition, TrainingLabels, condition_text
from sg3flow.rendering.images import Image, RenderedGenerator, render_image
from sg3flow.rendering.seeds import RenderOptions

_BACKGROUND, _INK = (255, 255, 255), (30, 30, 30)
_MIN_TILE = 128
_GAP = 4
_MAX_PIXELS = 200_000_000
_SEEDS = range(12)
_MAX_SIDE = 256


def seed_sheet(
    images: Iterable[Image], labels: Sequence[str], resolution: int, columns: int = 0
) -> Image:
    """A grid of images, each with its label below.

    Args:
        images: square images [H, W, C], consumed one by one after the size check.
        labels: one text per image.
        resolution: side of each image in pixels.
        columns: images per row; 0: automatic, slightly wider than high.

    Returns:
        The sheet, [H, W, 3].

    Raises:
        ConfigError: the sheet would be too large.
    """
    columns = min(columns or math.ceil(math.sqrt(len(labels) * 1.5)), len(labels))
    side = enlarged_side(resolution, _MIN_TILE)
    font = _font(side)
    strip = _line_height(font)
    rows = math.ceil(len(labels) / columns)
    sheet, draw = _blank(columns * (side + _GAP) + _GAP, rows * (side + strip + _GAP) + _GAP)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        x = _GAP + i % columns * (side + _GAP)
        y = _GAP + i // columns * (side + strip + _GAP)
        sheet.paste(PillowImage.fromarray(enlarged(image, _MIN_TILE)), (x, y))
        text = _fitted(draw, label, font, side)
        draw.text((x + side / 2, y + side + strip / 2), text, _INK, font, anchor="mm")
    return np.asarray(sheet)


def table_sheet(
    images: Iterable[Image],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    resolution: int,
) -> Image:
    """A table of images with labels in the left and top margin.

    Args:
        images: square images [H, W, C], row by row, consumed one by one after the size check.
        resolution: side of each image in pixels.

    Returns:
        The sheet, [H, W, 3].

    Raises:
        ConfigError: the sheet would be too large.
    """
    side = enlarged_side(resolution, _MIN_TILE)
    font = _font(side)
    top = _line_height(font) + _GAP
    left = math.ceil(max(font.getlength(label) for label in row_labels)) + 4 * _GAP
    step = side + _GAP
    sheet, draw = _blank(left + len(column_labels) * step, top + len(row_labels) * step)
    for column, label in enumerate(column_labels):
        draw.text((left + column * step + side / 2, top / 2), label, _INK, font, anchor="mm")
    for row, label in enumerate(row_labels):
        y = top + row * step + side / 2
        draw.text((left - 2 * _GAP, y), label, _INK, font, anchor="rm")
    for i, image in enumerate(images):
        row, column = divmod(i, len(column_labels))
        place = (left + column * step, top + row * step)
        sheet.paste(PillowImage.fromarray(enlarged(image, _MIN_TILE)), place)
    return np.asarray(sheet)


def enlarged(image: Image, min_side: int) -> Image:
    """The image as RGB, [H, W, 3], with pixels repeated to a side of at least ``min_side``."""
    times = enlarged_side(image.shape[0], min_side) // image.shape[0]
    image = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    return image.repeat(times, axis=0).repeat(times, axis=1)


def enlarged_side(resolution: int, min_side: int) -> int:
    """The smallest multiple of ``resolution`` that is at least ``min_side``."""
    return math.ceil(min_side / resolution) * resolution


def check_sheet_size(width: int, height: int) -> None:
    """Refuse sheets that would need too much memory, before rendering.

    Raises:
        ConfigError: more than 200 million pixels.
    """
    if width * height > _MAX_PIXELS:
        raise ConfigError(
            f"a sheet of {width} x {height} pixels is too large (at most {_MAX_PIXELS // 10**6} "
            "million pixels); name fewer seeds"
        )


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
    check_sheet_size(width, height)
    sheet = PillowImage.new("RGB", (width, height), _BACKGROUND)
    return sheet, ImageDraw.Draw(sheet)


def sample_sheet(
    G: RenderedGenerator, labels: TrainingLabels, class_names: Sequence[str] = ()
) -> Image:
    """Seeds 0 to 11 without truncation, [H, W, 3]; large images are scaled down to 256 pixels.

    A conditional network uses its classes in turn, or labels of its training images.

    Raises:
        CheckpointError: the network generates values that are not finite.
    """
    conditions = labels.in_turn(len(_SEEDS))
    captions = [
        f"{seed} {condition_text(each, class_names).removeprefix('class ')}".strip()
        for seed, each in zip(_SEEDS, conditions, strict=True)
    ]
    side = min(G.img_resolution, _MAX_SIDE)
    return seed_sheet(_small_pictures(G, conditions, side), captions, side)


def _small_pictures(
    G: RenderedGenerator, conditions: Sequence[Condition], side: int
) -> Iterator[Image]:
    for seed, condition in zip(_SEEDS, conditions, strict=True):
        yield resized(render_image(G, seed, RenderOptions(), condition), side)


def resized(image: Image, side: int) -> Image:
    """An image [H, W, 1 or 3] scaled to [side, side, 1 or 3]; unchanged if it has this side."""
    if image.shape[0] == side:
        return image
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels))
    scaled = np.asarray(picture.resize((side, side), PillowImage.Resampling.LANCZOS))
    return scaled.reshape(side, side, image.shape[2])
