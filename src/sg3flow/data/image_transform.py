"""What can be wrong with the look of a picture: blur, bars at its borders, a single color."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from sg3flow.data.perceptual_hash import perceptual_hash
from sg3flow.errors import ConfigError, Sg3flowError

_UNIFORM = 8  # gray values that a row of a bar may differ in: JPEG leaves some
_COLOUR_STEP = 16  # width of a bin of a color channel


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of one picture.

    sharpness: standard deviation of its Laplacian, in gray values of 255.
    bars: share that uniform bars at two opposite borders take (letterbox, pillarbox); what is
        uniform at all four borders is a background, not bars.
    one_color: share of the pixels of its most common color, of 4,096.
    """

    sharpness: float
    bars: float
    one_colour: float


def quality(picture: Image.Image) -> Quality:
    """Measure a picture of mode RGB or L."""
    grey = np.asarray(picture.convert("L"), np.int16)
    return Quality(
        round(_sharpness(grey), 4),
        round(_bars(grey), 4),
        round(_one_colour(np.asarray(picture.convert("RGB"))), 4),
    )


def _sharpness(grey: np.ndarray) -> float:
    if min(grey.shape) < 3:
        return 0.0
    across = grey[1:-1, :-2] + grey[1:-1, 2:]
    down = grey[:-2, 1:-1] + grey[2:, 1:-1]
    return float(np.std(across + down - 4 * grey[1:-1, 1:-1]))


def _bars(grey: np.ndarray) -> float:
    letterbox, pillarbox = _opposite_bars(grey), _opposite_bars(grey.T)
    return 0.0 if letterbox and pillarbox else max(letterbox, pillarbox)


def _opposite_bars(grey: np.ndarray) -> float:
    """Share of the rows in two bars, at the top and at the bottom; 0: not at both."""
    top, bottom = _bar(grey), _bar(grey[::-1])
    return (top + bottom) / len(grey) if top and bottom else 0.0


def _bar(grey: np.ndarray) -> int:
    """Rows from the first on that are uniform, and as bright as the first."""
    is_bar = (np.ptp(grey, axis=1) <= _UNIFORM) & (abs(grey[:, 0] - grey[0, 0]) <= _UNIFORM)
    return int(np.argmin(is_bar)) if not is_bar.all() else len(grey)


def _one_colour(pixels: np.ndarray) -> float:
    bins = (pixels // _COLOUR_STEP).astype(np.int32)
    codes = (bins[..., 0] * 256 + bins[..., 1] * 16 + bins[..., 2]).ravel()
    return float(np.bincount(codes).max() / codes.size)


TRANSFORMS = ("none", "center-crop", "center-crop-wide")
_GREYS = np.arange(256)


class ExcludedImageError(Sg3flowError):
    """The settings leave a picture out; ``kind`` of reason, and the reason as the message."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Measures:
    """What a manifest says about the pixels of a picture.

    ``pixel_sha256`` is over the RGB pixels (uint8, HWC), so that a picture is found again in
    another file format or as gray stored in three channels. ``mean`` and ``contrast`` are the mean
    and the standard deviation of its gray values, of 255; ``look`` is the hash of its look (see
    ``looks.py``).
    """

    width: int
    height: int
    mean: float
    contrast: float
    pixel_sha256: str
    look: str


def measure(picture: Image.Image) -> Measures:
    """Measure a picture of mode RGB or L."""
    grey = picture.convert("L")
    counts = np.array(grey.histogram())  # whole numbers: the same result everywhere
    total = int(counts.sum())
    mean, squares = (int(counts @ values) / total for values in (_GREYS, _GREYS * _GREYS))
    return Measures(
        picture.width,
        picture.height,
        round(mean, 4),
        round(math.sqrt(max(squares - mean * mean, 0.0)), 4),
        pixel_digest(np.asarray(picture)),
        perceptual_hash(grey),
    )


def pixel_digest(pixels: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of the RGB pixels of a picture: uint8 [H, W, 3], or gray as [H, W]."""
    colored = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return hashlib.sha256(np.ascontiguousarray(colored).data).hexdigest()


def parse_resolution(text: str) -> tuple[int, int] | None:
    """``256x256`` as (width, height); None for the empty text.

    Raises:
        ConfigError: it is not of that form.
    """
    if not text:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 0 < int(part) <= 16384 for part in parts):
        raise ConfigError(f"resolution must be WIDTHxHEIGHT in pixels, say 256x256, not '{text}'")
    return int(parts[0]), int(parts[1])


def check_transform(transform: str, size: tuple[int, int] | None) -> None:
    """Check that a transform can end in a square with a power of two as its side.

    Raises:
        ConfigError: it cannot.
    """
    if size is None:
        if transform != "none":
            raise ConfigError(f"transform {transform} needs a resolution, say 256x256")
        return
    width, height = size
    if width & (width - 1):
        raise ConfigError(f"width in resolution {width}x{height} must be a power of two")
    if transform == "center-crop-wide":
        if height > width:
            raise ConfigError(
                f"center-crop-wide makes wide pictures: resolution {width}x{height} must not be "
                "higher than wide"
            )
    elif width != height:
        raise ConfigError(
            f"resolution {width}x{height} must be square; only center-crop-wide takes another one"
        )


def fit(picture: Image.Image, transform: str, size: tuple[int, int] | None) -> Image.Image:
    """Crop and scale a picture.

    - ``none``: Lanczos to ``size``, whatever the aspect; untouched if ``size`` is None.
    - ``center-crop``: the central square, then Lanczos.
    - ``center-crop-wide``: the rows whose share of the height gives the aspect of ``size``, at
      full width, then Lanczos, on a black square as wide as ``size``. The number of rows is taken
      relative to the target's width, not the source's: a quirk of the public tool, kept so that
      outputs are equal.

    Raises:
        NotWanted: center-crop-wide would have to enlarge.
    """
    if size is None:
        return picture
    if transform == "center-crop":
        return _scaled(_central_square(picture), size)
    if transform == "center-crop-wide":
        return _wide(picture, size)
    return _scaled(picture, size)


def _scaled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _central_square(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    right, bottom = (width + side) // 2, (height + side) // 2
    return picture.crop((left, top, right, bottom))


def _wide(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    width, height = picture.size
    rows = round(size[0] * height / width)
    if width < size[0] or rows < size[1]:
        wanted = f"{size[0]}x{size[1]}"
        reason = f"{width}x{height} is too small for center-crop-wide to {wanted}"
        raise ExcludedImageError("too small", reason)
    band = picture.crop((0, (height - rows) // 2, width, (height + rows) // 2))
    canvas = Image.new(picture.mode, (size[0], size[0]))
    canvas.paste(_scaled(band, size), (0, (size[0] - size[1]) // 2))
    return canvas
