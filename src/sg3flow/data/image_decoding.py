"""Decode image files of any format, and convert them to upright 8-bit sRGB or gray.

The messages of ``UnusableImageError`` and the names of ``changes`` are stored in manifests.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageCms, ImageColor, UnidentifiedImageError

from sg3flow.errors import ConfigError, Sg3flowError

ORIENTATION_TAG = 0x0112  # of EXIF
# Formats that Pillow lists but that hold no pixels, or that start another program.
_NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


class UnusableImageError(Sg3flowError):
    """An image cannot be packed; the message is the reason, without the image's name."""


@cache
def image_formats() -> tuple[str, ...]:
    """Names of the formats that count as images."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_IMAGES)


@cache
def image_endings() -> dict[str, str]:
    """Formats by file name suffix, in lower case and with the dot."""
    formats = image_formats()
    endings = Image.registered_extensions()
    return {ending: name for ending, name in endings.items() if name in formats}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image file; ``changes`` names what decoding has changed or dropped."""

    image: Image.Image
    changes: tuple[str, ...]


def decode_image(content: bytes) -> Decoded:
    """Decode the first image of an image file completely, in its own mode.

    Raises:
        UnusableImageError: the file is empty, damaged, not an image, or far too large.
    """
    if not content:
        raise UnusableImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; only the pixels matter
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=image_formats())
            changes = ["16 bits"] * _is_deep(image) + ["first frame"] * _is_animated(image)
            changes += ["EXIF orientation"] * _is_turned_on_load(image)
            image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UnusableImageError("not a picture in a format that Pillow reads") from None
    except Exception as error:  # damaged files make Pillow's plugins raise any exception
        raise UnusableImageError(f"cannot be decoded ({error})") from None
    return Decoded(image, tuple(changes))


def _is_deep(image: Image.Image) -> bool:
    tiles = getattr(image, "tile", [])  # loading empties it, so check before
    return any(";16" in str(tile[3]) for tile in tiles)


def _is_turned_on_load(image: Image.Image) -> bool:
    """Whether Pillow applies the orientation while loading, which it does only for TIFF."""
    return image.format == "TIFF" and image.getexif().get(ORIENTATION_TAG, 1) in range(2, 9)


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged later frame does not affect the first
        image.seek(0)
        return False


Color = tuple[int, int, int]

WHITE: Color = (255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}


@dataclass(frozen=True, slots=True)
class ConvertedImage:
    """An image of mode RGB or L; ``changes`` names the conversion rules that were applied."""

    image: Image.Image
    changes: tuple[str, ...]


def parse_color(text: str) -> Color:
    """Parse a color name or ``#RRGGBB``.

    Raises:
        ConfigError: it is neither.
    """
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise ConfigError(f"'{text[:40]}' is not a color; give a color name or #RRGGBB") from None
    return red, green, blue


def to_rgb_or_gray(image: Image.Image, background: Color = WHITE) -> ConvertedImage:
    """Convert an image to mode RGB or L: upright, in sRGB, without transparency.

    Raises:
        UnusableImageError: its values have no known meaning, or it is damaged.
    """
    changes: list[str] = []
    try:
        upright = _upright(image, changes)
        base, alpha = _split(upright, changes)
        base = _in_srgb(base, image.info.get("icc_profile"), changes)
        if alpha is not None:
            base = _on_background(base, alpha, background)
            changes.append("alpha")
    except (UnusableImageError, MemoryError):
        raise
    except Exception as error:  # odd metadata makes Pillow raise any exception
        raise UnusableImageError(f"cannot be converted to RGB ({error})") from None
    return ConvertedImage(base, tuple(changes))


def _upright(image: Image.Image, changes: list[str]) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata counts as none
        turn = None
    if turn is None:
        return image
    changes.append("EXIF orientation")
    return image.transpose(turn)


def _split(image: Image.Image, changes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """The colors in mode L, RGB or CMYK, and the alpha channel (None: opaque)."""
    mode = image.mode
    if mode in ("RGB", "L") and "transparency" not in image.info:
        return image, None
    if mode == "I" or mode.startswith("I;16"):
        return _from_16_bits(image), None
    if mode in ("P", "PA"):
        changes.append("palette")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        base = rgba.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
        return base, alpha if any(alpha.histogram()[:255]) else None
    if mode in ("RGB", "L", "CMYK"):
        return image, None
    if mode == "F":
        raise UnusableImageError("has floating-point values; convert it to 8 or 16 bits first")
    return image.convert("L" if mode == "1" else "RGB"), None


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise UnusableImageError("has values of 32 bits; convert it to 8 or 16 bits first")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None, changes: list[str]) -> Image.Image:
    if profile:
        try:
            convert = _transform(bytes(profile), image.mode)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            changes.append("ICC profile not usable")
        else:
            if convert is not None:
                changes.append("ICC profile")
                converted = convert(image)
                return converted.convert("L") if image.mode == "L" else converted
    if image.mode != "CMYK":
        return image
    changes.append("CMYK")
    return image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """The conversion from a profile to sRGB; None: the profile is sRGB."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if source.profile.xcolor_space.strip() != _SPACES[mode]:
        raise ValueError("the profile is for another color space")
    description = ImageCms.getProfileDescription(source)
    # Unchanged to the bit: a conversion from sRGB to sRGB would only add rounding.
    if mode == "RGB" and "srgb" in description.lower():
        return None
    transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB")
    return transform.apply


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _on_background(base: Image.Image, alpha: Image.Image, background: Color) -> Image.Image:
    is_gray = background[0] == background[1] == background[2]
    if base.mode == "L" and is_gray:
        return Image.composite(base, Image.new("L", base.size, background[0]), alpha)
    return Image.composite(base.convert("RGB"), Image.new("RGB", base.size, background), alpha)
