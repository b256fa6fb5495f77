"""One picture: decoding, what is measured of it, cropping, scaling and encoding.

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
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


class UnusableImageError(Sg3flowError):
    """A picture cannot be packed; the message is the reason, without its name."""


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
        raise UnusableImageError("the file is empty")
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
        raise UnusableImageError("not a picture in a format that Pillow reads") from None
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        raise UnusableImageError(f"cannot be decoded ({error})") from None
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
class PlainPicture:
    """A picture of mode RGB or L; ``changes`` names the rules that were applied to it."""

    picture: Image.Image
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


def plain_picture(picture: Image.Image, background: Color = WHITE) -> PlainPicture:
    """The picture in mode RGB or L, upright, in sRGB, without transparency.

    Raises:
        UnusablePicture: its values have no known meaning, or it is damaged.
    """
    changes: list[str] = []
    try:
        upright = _upright(picture, changes)
        base, alpha = _split(upright, changes)
        base = _in_srgb(base, picture.info.get("icc_profile"), changes)
        if alpha is not None:
            base = _on_background(base, alpha, background)
            changes.append("alpha")
    except (UnusableImageError, MemoryError):
        raise
    except Exception as error:  # odd metadata makes Pillow raise anything
        raise UnusableImageError(f"cannot be converted to plain colours ({error})") from None
    return PlainPicture(base, tuple(changes))


def _upright(picture: Image.Image, changes: list[str]) -> Image.Image:
    try:
        turn = _TURNS.get(picture.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata says nothing
        turn = None
    if turn is None:
        return picture
    changes.append("EXIF orientation")
    return picture.transpose(turn)


def _split(picture: Image.Image, changes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """The colors in mode L, RGB or CMYK, and what is transparent (None: nothing)."""
    mode = picture.mode
    if mode in ("RGB", "L") and "transparency" not in picture.info:
        return picture, None
    if mode == "I" or mode.startswith("I;16"):
        return _from_16_bits(picture), None
    if mode in ("P", "PA"):
        changes.append("palette")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        alpha = rgba.getchannel("A")
        base = rgba.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
        return base, alpha if any(alpha.histogram()[:255]) else None
    if mode in ("RGB", "L", "CMYK"):
        return picture, None
    if mode == "F":
        raise UnusableImageError("has floating-point values; convert it to 8 or 16 bits first")
    return picture.convert("L" if mode == "1" else "RGB"), None


def _from_16_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise UnusableImageError("has values of 32 bits; convert it to 8 or 16 bits first")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _in_srgb(picture: Image.Image, profile: bytes | None, changes: list[str]) -> Image.Image:
    if profile:
        try:
            convert = _transform(bytes(profile), picture.mode)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            changes.append("ICC profile not usable")
        else:
            if convert is not None:
                changes.append("ICC profile")
                converted = convert(picture)
                return converted.convert("L") if picture.mode == "L" else converted
    if picture.mode != "CMYK":
        return picture
    changes.append("CMYK")
    return picture.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """What brings pictures of a profile to sRGB; None: they are there already."""
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
