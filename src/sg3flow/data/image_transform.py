"""Pixel operations on one image: measures, visible defects, cropping and scaling.

The arithmetic of the transforms is that of the public packing tool (see ``fit``), so that equal
sources give equal pixels.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from sg3flow.data.perceptual_hash import perceptual_hash
from sg3flow.errors import ConfigError, Sg3flowError

_UNIFORM = 8  # gray values by which a row of a bar may vary, because JPEG adds noise
_COLOR_STEP = 16  # width of a color bin, per channel
_GRAYS = np.arange(256)


@dataclass(frozen=True, slots=True)
class Quality:
    """Visible defects of one image. The fields are columns of the validation table.

    sharpness: standard deviation of the Laplacian of its gray values (0 to 255).
    bars: fraction covered by uniform bars at two opposite borders (letterbox, pillarbox); an image
        that is uniform at all four borders has a background, not bars.
    one_colour: fraction of pixels in the most common of 4,096 color bins.
    """

    sharpness: float
    bars: float
    one_colour: float


def quality(image: Image.Image) -> Quality:
    """Measure the defects of an image of mode RGB or L."""
    gray = np.asarray(image.convert("L"), np.int16)
    return Quality(
        round(_sharpness(gray), 4),
        round(_bars(gray), 4),
        round(_one_color(np.asarray(image.convert("RGB"))), 4),
    )


def _sharpness(gray: np.ndarray) -> float:
    if min(gray.shape) < 3:
        return 0.0
    across = gray[1:-1, :-2] + gray[1:-1, 2:]
    down = gray[:-2, 1:-1] + gray[2:, 1:-1]
    return float(np.std(across + down - 4 * gray[1:-1, 1:-1]))


def _bars(gray: np.ndarray) -> float:
    letterbox, pillarbox = _opposite_bars(gray), _opposite_bars(gray.T)
    return 0.0 if letterbox and pillarbox else max(letterbox, pillarbox)


def _opposite_bars(gray: np.ndarray) -> float:
    """Fraction of rows in bars at the top and at the bottom; 0: not at both."""
    top, bottom = _bar(gray), _bar(gray[::-1])
    return (top + bottom) / len(gray) if top and bottom else 0.0


def _bar(gray: np.ndarray) -> int:
    """Number of leading rows that are uniform and as bright as the first."""
    is_bar = (np.ptp(gray, axis=1) <= _UNIFORM) & (abs(gray[:, 0] - gray[0, 0]) <= _UNIFORM)
    return int(np.argmin(is_bar)) if not is_bar.all() else len(gray)


def _one_color(pixels: np.ndarray) -> float:
    bins = (pixels // _COLOR_STEP).astype(np.int32)
    codes = (bins[..., 0] * 256 + bins[..., 1] * 16 + bins[..., 2]).ravel()
    return float(np.bincount(codes).max() / codes.size)


_DARK = 1 << 14  # an exposed image of 16 bits has values above; if not, its data has fewer bits


def bit_depth_warnings(spans: Sequence[tuple[int, int]]) -> list[str]:
    """What is probably wrong with images of 16 bits, from their least and greatest values."""
    dark = [span for span in spans if span[1] < _DARK]
    if not dark:
        return []
    least, greatest = min(low for low, _ in dark), max(high for _, high in dark)
    return [
        f"{len(dark):,} of {len(spans):,} images of 16 bits have values from {least:,} to "
        f"{greatest:,} of 65,535, so they are packed with at most {greatest / 0xFFFF:.1%} of the "
        f"brightness; if their data has {greatest.bit_length()} bits, scale it to 16 and pack again"
    ]


class ExcludedImageError(Sg3flowError):
    """The settings leave an image out; the message is the reason, ``kind`` its kind."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Measures:
    """What the manifest records about the pixels of an image.

    ``pixel_sha256`` is over the RGB pixels (uint8, HWC), so that the same image is recognized in
    another file format, or as gray stored in three channels. ``mean`` and ``contrast`` are the mean
    and the standard deviation of its gray values (0 to 255).
    """

    width: int
    height: int
    mean: float
    contrast: float
    pixel_sha256: str
    perceptual_hash: str


def measure(image: Image.Image) -> Measures:
    """Measure the pixels of an image of mode RGB or L."""
    gray = image.convert("L")
    counts = np.array(gray.histogram())  # whole numbers: the same result on every machine
    total = int(counts.sum())
    mean, squares = (int(counts @ values) / total for values in (_GRAYS, _GRAYS * _GRAYS))
    return Measures(
        image.width,
        image.height,
        round(mean, 4),
        round(math.sqrt(max(squares - mean * mean, 0.0)), 4),
        pixel_digest(np.asarray(image)),
        perceptual_hash(gray),
    )


def pixel_digest(pixels: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of the RGB pixels of an image: uint8 [H, W, 3], or gray as [H, W]."""
    colored = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return hashlib.sha256(np.ascontiguousarray(colored).data).hexdigest()


def parse_resolution(text: str) -> tuple[int, int] | None:
    """Parse ``256x256`` as (width, height); an empty text gives None.

    Raises:
        ConfigError: malformed.
    """
    if not text:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(_is_side(part) for part in parts):
        raise ConfigError(
            f"resolution must be WIDTHxHEIGHT in pixels, e.g. 256x256, not '{text[:60]}'"
        )
    return int(parts[0]), int(parts[1])


def _is_side(text: str) -> bool:
    return text.isdecimal() and len(text) <= 5 and 0 < int(text) <= 16384


def check_transform(transform: str, size: tuple[int, int] | None) -> None:
    """Check that a transform to ``size`` gives a square whose side is a power of two.

    Raises:
        ConfigError: it does not.
    """
    if size is None:
        if transform != "none":
            raise ConfigError(f"transform {transform} needs a resolution, e.g. 256x256")
        return
    width, height = size
    if width & (width - 1):
        raise ConfigError(f"the width of resolution {width}x{height} must be a power of two")
    if transform == "center-crop-wide":
        if height > width:
            raise ConfigError(
                f"center-crop-wide makes wide images: resolution {width}x{height} must not be "
                "taller than wide"
            )
    elif width != height:
        raise ConfigError(
            f"resolution {width}x{height} must be square, except with transform center-crop-wide"
        )


def fit(image: Image.Image, transform: str, size: tuple[int, int] | None) -> Image.Image:
    """Crop and scale an image.

    - ``none``: scale to ``size``, ignoring the aspect ratio; unchanged if ``size`` is None.
    - ``center-crop``: crop the central square, then scale.
    - ``center-crop-wide``: crop the central rows at full width to the aspect ratio of ``size``,
      scale, and center on a black square as wide as ``size``. The number of rows is computed from
      the target's width, not the source's: a quirk of the public tool, kept so that outputs agree.

    Scaling uses the Lanczos filter.

    Raises:
        ExcludedImageError: center-crop-wide would have to enlarge the image.
    """
    if size is None:
        return image
    if transform == "center-crop":
        return _scaled(_central_square(image), size)
    if transform == "center-crop-wide":
        return _wide(image, size)
    return _scaled(image, size)


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _central_square(image: Image.Image) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    right, bottom = (width + side) // 2, (height + side) // 2
    return image.crop((left, top, right, bottom))


def _wide(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    width, height = image.size
    rows = round(size[0] * height / width)
    if width < size[0] or rows < size[1]:
        wanted = f"{size[0]}x{size[1]}"
        reason = f"{width}x{height} is too small for center-crop-wide to {wanted}"
        raise ExcludedImageError("too small", reason)
    band = image.crop((0, (height - rows) // 2, width, (height + rows) // 2))
    canvas = Image.new(image.mode, (size[0], size[0]))
    canvas.paste(_scaled(band, size), (0, (size[0] - size[1]) // 2))
    return canvas
