"""One picture: decoding, what is measured of it, cropping, scaling and encoding.

The arithmetic of the transforms is that of the public packing tool (see ``fit``), so that equal
sources give equal pixels.
"""

import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sg3flow.data.looks import look_hash
from sg3flow.errors import ConfigError, Sg3flowError

TRANSFORMS = ("none", "center-crop", "center-crop-wide")

ORIENTATION_TAG = 0x0112  # of EXIF
# Formats that Pillow lists but that hold no pixels of their own, or start another program.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_GREYS = np.arange(256)


class UnusablePicture(Sg3flowError):
    """A picture cannot be packed; the message is the reason, without its name."""


class NotWanted(Sg3flowError):
    """The settings leave a picture out; ``kind`` of reason, and the reason as the message."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@cache
def picture_formats() -> tuple[str, ...]:
    """Names of the formats that count as pictures."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_PICTURES)


@cache
def picture_endings() -> dict[str, str]:
    """The format that an ending of a file name stands for; in small letters, with the dot."""
    formats = picture_formats()
    endings = Image.registered_extensions()
    return {ending: name for ending, name in endings.items() if name in formats}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture file; ``changes`` names what of the file is not in the picture."""

    picture: Image.Image
    changes: tuple[str, ...]


def decode_picture(content: bytes) -> Decoded:
    """Decode the first picture of a picture file completely, in the mode it has.

    Raises:
        UnusablePicture: empty, damaged, no picture, or far too large.
    """
    if not content:
        raise UnusablePicture("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; what counts are the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=picture_formats())
            changes = ["16 bits"] * _is_deep(picture) + ["first frame"] * _is_animated(picture)
            changes += ["EXIF orientation"] * _turns_itself(picture)
            picture.load()
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UnusablePicture("not a picture in a format that Pillow reads") from None
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        raise UnusablePicture(f"cannot be decoded ({error})") from None
    return Decoded(picture, tuple(changes))


def _is_deep(picture: Image.Image) -> bool:
    tiles = getattr(picture, "tile", [])  # to be asked before loading, which empties it
    return any(";16" in str(tile[3]) for tile in tiles)


def _turns_itself(picture: Image.Image) -> bool:
    """Whether Pillow applies the orientation while it loads; it does so for TIFF alone."""
    return picture.format == "TIFF" and picture.getexif().get(ORIENTATION_TAG, 1) in range(2, 9)


def _is_animated(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # a damaged later frame does not harm the first
        picture.seek(0)
        return False


@dataclass(frozen=True, slots=True)
class Measures:
    """What a manifest says about the pixels of a picture.

    ``pixel_sha256`` is over the RGB pixels (uint8, HWC), so that a picture is found again in
    another file format or as grey stored in three channels. ``mean`` and ``contrast`` are the mean
    and the standard deviation of its grey values, of 255; ``look`` is the hash of its look (see
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
        look_hash(grey),
    )


def pixel_digest(pixels: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of the RGB pixels of a picture: uint8 [H, W, 3], or grey as [H, W]."""
    coloured = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return hashlib.sha256(np.ascontiguousarray(coloured).data).hexdigest()


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
        raise NotWanted("too small", reason)
    band = picture.crop((0, (height - rows) // 2, width, (height + rows) // 2))
    canvas = Image.new(picture.mode, (size[0], size[0]))
    canvas.paste(_scaled(band, size), (0, (size[0] - size[1]) // 2))
    return canvas
