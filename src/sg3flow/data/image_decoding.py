"""One image: decoding, what is measured of it, cropping, scaling and encoding.

The arithmetic of the transforms is that of the public packing tool (see ``fit``), so that equal
sources give equal pixels.
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
# Formats that Pillow lists but that hold no pixels of their own, or start another program.
_NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


class UnusableImageError(Sg3flowError):
    """An image cannot be packed; the message is the reason, without its name."""


@cache
def image_formats() -> tuple[str, ...]:
    """Names of the formats that count as images."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_IMAGES)


@cache
def image_endings() -> dict[str, str]:
    """The format that an ending of a file name stands for; in small letters, with the dot."""
    formats = image_formats()
    endings = Image.registered_extensions()
    return {ending: name for ending, name in endings.items() if name in formats}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image file; ``changes`` names what of the file is not in the image."""

    image: Image.Image
    changes: tuple[str, ...]


def decode_image(content: bytes) -> Decoded:
    """Decode the first image of an image file completely, in the mode it has.

    Raises:
        UnusableImage: empty, damaged, no image, or far too large.
    """
    if not content:
        raise UnusableImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; what counts are the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=image_formats())
            changes = ["16 bits"] * _is_deep(image) + ["first frame"] * _is_animated(image)
            changes += ["EXIF orientation"] * _turns_itself(image)
            image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UnusableImageError("not a picture in a format that Pillow reads") from None
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        raise UnusableImageError(f"cannot be decoded ({error})") from None
    return Decoded(image, tuple(changes))


def _is_deep(image: Image.Image) -> bool:
    tiles = getattr(image, "tile", [])  # to be asked before loading, which empties it
    return any(";16" in str(tile[3]) for tile in tiles)


def _turns_itself(image: Image.Image) -> bool:
    """Whether Pillow applies the orientation while it loads; it does so for TIFF alone."""
    return image.format == "TIFF" and image.getexif().get(ORIENTATION_TAG, 1) in range(2, 9)


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged later frame does not harm the first
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
class PlainImage:
    """An image of mode RGB or L; ``changes`` names the rules that were applied to it."""

    image: Image.Image
    changes: tuple[str, ...]


def parse_color(text: str) -> Color:
    """A color by its name or as ``#RRGGBB``.

    Raises:
        ConfigError: it is neither.
    """
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise ConfigError(f"'{text[:40]}' is no colour; give a name or #RRGGBB") from None
    return red, green, blue


def plain_image(image: Image.Image, background: Color = WHITE) -> PlainImage:
    """The image in mode RGB or L, upright, in sRGB, without transparency.

    Raises:
        UnusableImage: its values have no known meaning, or it is damaged.
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
    except Exception as error:  # odd metadata makes Pillow raise anything
        raise UnusableImageError(f"cannot be converted to plain colours ({error})") from None
    return PlainImage(base, tuple(changes))


def _upright(image: Image.Image, changes: list[str]) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata says nothing
        turn = None
    if turn is None:
        return image
    changes.append("EXIF orientation")
    return image.transpose(turn)


def _split(image: Image.Image, changes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """The colors in mode L, RGB or CMYK, and what is transparent (None: nothing)."""
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
    """What brings images of a profile to sRGB; None: they are there already."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if source.profile.xcolor_space.strip() != _SPACES[mode]:
        raise ValueError("the profile is for another colour space")
    description = ImageCms.getProfileDescription(source)
    # Kept to the bit: a round trip through the same space would only add rounding.
    if mode == "RGB" and "srgb" in description.lower():
        return None
    transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB")
    return transform.apply


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _on_background(base: Image.Image, alpha: Image.Image, background: Color) -> Image.Image:
    is_grey = background[0] == background[1] == background[2]
    if base.mode == "L" and is_grey:
        return Image.composite(base, Image.new("L", base.size, background[0]), alpha)
    return Image.composite(base.convert("RGB"), Image.new("RGB", base.size, background), alpha)
