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
from PIL import Image, UnidentifiedImageError

from sg3flow.errors import ConfigError, Sg3flowError

TRANSFORMS = ("none", "center-crop", "center-crop-wide")

# Formats that Pillow lists but that hold no pixels of their own, or start another program.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_TO_RGB = {"P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"}


class UnusablePicture(Sg3flowError):
    """A picture cannot be packed; the message is the reason, without its name."""


class TooSmall(UnusablePicture):
    """A picture has fewer pixels than the transform needs."""


@cache
def picture_formats() -> tuple[str, ...]:
    """Names of the formats that count as pictures."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_PICTURES)


@cache
def picture_suffixes() -> frozenset[str]:
    """Endings of file names, in small letters and with the dot, that count as pictures."""
    formats = picture_formats()
    endings = Image.registered_extensions()
    return frozenset(ending for ending, name in endings.items() if name in formats)


def decode_picture(content: bytes) -> Image.Image:
    """Decode a picture file completely, in the mode it has.

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
            picture.load()
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UnusablePicture("not a picture in a format that Pillow reads") from None
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        raise UnusablePicture(f"cannot be decoded ({error})") from None
    return picture


def plain_mode(picture: Image.Image) -> Image.Image:
    """The picture in mode RGB or L.

    Raises:
        UnusablePicture: it is transparent, or has more than 8 bits a channel.
    """
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if any(alpha.histogram()[:255]):
            raise UnusablePicture("has transparent parts; put it on a background first")
        return picture.convert("L" if picture.mode in ("L", "LA") else "RGB")
    if picture.mode in ("RGB", "L"):
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode in _TO_RGB:
        return picture.convert("RGB")
    raise UnusablePicture(f"mode {picture.mode} has more than 8 bits a channel; convert it first")


@dataclass(frozen=True, slots=True)
class Measures:
    """What a manifest says about the pixels of a picture.

    ``pixel_sha256`` is over the RGB pixels (uint8, HWC), so that a picture is found again in
    another file format or as grey stored in three channels. ``mean`` and ``contrast`` are the mean
    and the standard deviation of its grey values, of 255.
    """

    width: int
    height: int
    mean: float
    contrast: float
    pixel_sha256: str


def measure(picture: Image.Image) -> Measures:
    """Measure a picture of mode RGB or L."""
    counts = picture.convert("L").histogram()  # whole numbers: the same result everywhere
    total = sum(counts)
    mean = sum(value * count for value, count in enumerate(counts)) / total
    squares = sum(value * value * count for value, count in enumerate(counts)) / total
    return Measures(
        picture.width,
        picture.height,
        round(mean, 4),
        round(math.sqrt(max(squares - mean * mean, 0.0)), 4),
        hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest(),
    )


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
        TooSmall: center-crop-wide would have to enlarge.
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
        raise TooSmall(f"{width}x{height} is too small for center-crop-wide to {size[0]}x{size[1]}")
    band = picture.crop((0, (height - rows) // 2, width, (height + rows) // 2))
    canvas = Image.new(picture.mode, (size[0], size[0]))
    canvas.paste(_scaled(band, size), (0, (size[0] - size[1]) // 2))
    return canvas


def encode_png(picture: Image.Image) -> bytes:
    """A PNG without compression and without metadata: the fastest to decode, and reproducible."""
    stream = io.BytesIO()
    plain = Image.fromarray(np.asarray(picture))  # drops profiles and text that Pillow would save
    plain.save(stream, "PNG", compress_level=0)
    return stream.getvalue()
