"""Decode image files of any format, and convert them to upright 8-bit sRGB or gray.

The messages of ``UnusableImageError`` and the names of ``changes`` are stored in manifests. Longer
than most files: what a file format, an ICC profile and a mode mean for pixels is one subject.
"""

import importlib
import io
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

import numpy as np
from PIL import Image, ImageCms, ImageColor, UnidentifiedImageError, features

from sg3flow.errors import ConfigError, Sg3flowError

ORIENTATION_TAG = 0x0112  # of EXIF
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262  # of TIFF
# Formats that Pillow lists but that hold no pixels, or that start another program.
_NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_LOSSY = {"AVIF", "HEIF", "JPEG", "MPO"}  # and some files of JPEG 2000, TIFF and WebP
# What reads images that not every installation does, by suffix.
_HEIC, _AVIF = "pip install 'sg3flow[heic]'", "pip install 'pillow>=11.3'"
READERS = dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), _HEIC)
READERS |= {".avif": _AVIF, ".avifs": _AVIF}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# In 8-bit values: a table of 26 points for sRGB's curve is off by 1, gamma 2.2 by 9.
_SRGB_TOLERANCE = 2


class UnusableImageError(Sg3flowError):
    """An image cannot be packed; the message is the reason, without the image's name."""


@cache
def image_formats() -> tuple[str, ...]:
    """Names of the formats that count as images; HEIC is one if pi-heif is installed."""
    Image.init()
    with suppress(ImportError):
        importlib.import_module("pi_heif").register_heif_opener()
    unread = set(_NOT_IMAGES)
    if "AVIF" in Image.OPEN and not features.check("avif"):  # built without its library
        unread.add("AVIF")
    return tuple(name for name in Image.OPEN if name not in unread)


@cache
def image_endings() -> dict[str, str]:
    """Formats by file name suffix, in lower case and with the dot."""
    formats = image_formats()
    endings = Image.registered_extensions()
    return {ending: name for ending, name in endings.items() if name in formats}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image file.

    ``changes`` names what decoding has changed or dropped; ``span`` holds the least and greatest
    values of an image of more than 8 bits (of color, to the upper 8 bits).
    """

    image: Image.Image
    changes: tuple[str, ...]
    span: tuple[int, int] | None = None


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
            layout = _layout(image)
            depth = _depth(image, layout)
            changes = [f"{depth} bits"] * (depth > 8) + ["first frame"] * _is_animated(image)
            changes += ["EXIF orientation"] * _is_turned_on_load(image)
            image.load()
            _mend_transparent_color(image, layout, content)
            span = _span(image) if depth > 8 else None
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UnusableImageError(_unidentified(content)) from None
    except Exception as error:  # damaged files make Pillow's plugins raise any exception
        raise UnusableImageError(f"cannot be decoded ({error})") from None
    return Decoded(image, tuple(changes), span)


def _unidentified(content: bytes) -> str:
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS:
        if "HEIF" in image_formats():
            return "a damaged HEIC file"
        return f"a HEIC file, which needs the package pi-heif ({_HEIC})"
    return "not a picture in a format that Pillow reads"


def _layout(image: Image.Image) -> str:
    """Pillow's name for the pixels in the file, ``RGB;16B``; loading forgets it."""
    tiles = getattr(image, "tile", [])
    return str(tiles[0][3]) if tiles else ""


def _depth(image: Image.Image, layout: str) -> int:
    """Bits per value in the file: 8 (or fewer), 12 or 16."""
    if ";12" in layout:
        return 12
    return 16 if ";16" in layout or image.mode == "I" or image.mode.startswith("I;16") else 8


def _span(image: Image.Image) -> tuple[int, int]:
    values = np.asarray(image)
    if image.mode.startswith("I"):
        return int(values.min()), int(values.max())
    colors = values[..., :-1] if image.mode in ("LA", "RGBA") else values
    return int(colors.min()) << 8, int(colors.max()) << 8 | 0xFF


def _mend_transparent_color(image: Image.Image, layout: str, content: bytes) -> None:
    """Apply the transparent color of a PNG to its own bits; Pillow scales only the pixels."""
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None:
        return
    if image.mode == "L":
        greatest = {"L;2": 3, "L;4": 15}.get(layout, 255)
        image.info["transparency"] = (key & greatest) * (255 // greatest)
    elif image.mode == "RGB" and layout == "RGB;16B":
        low = Image.open(io.BytesIO(content), formats=("PNG",))
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # the lower 8 bits
        values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
        opaque = (values != np.array(key, np.uint16)).any(axis=2)
        del image.info["transparency"]
        image.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))


@dataclass(frozen=True, slots=True)
class FileKind:
    """What the header of an image file says.

    ``is_lossy``: its compression changes pixels; ``is_ready``: its pixels are 8-bit RGB or gray
    that ``to_rgb_or_gray`` leaves as they are.
    """

    is_lossy: bool
    is_ready: bool


def file_kind(content: bytes) -> FileKind:
    """The kind of an image file, without decoding its pixels; an unreadable one is not ready."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=image_formats())
            is_ready = image.mode in ("RGB", "L") and _depth(image, _layout(image)) == 8
            is_ready &= not {"transparency", "icc_profile"} & image.info.keys()
            is_ready &= image.getexif().get(ORIENTATION_TAG, 1) not in _TURNS
            is_ready &= image.format != "PNG" or b"eXIf" not in content  # may follow the pixels
            return FileKind(_is_lossy(image, content), is_ready)
    except Exception:  # damaged files make Pillow's plugins raise any exception
        return FileKind(False, False)


def _is_lossy(image: Image.Image, content: bytes) -> bool:
    if image.format == "JPEG2000":
        start = content.find(b"\xff\x52")  # coding style; its transformation 0 is irreversible
        return content[start + 13 : start + 14] == b"\0"
    if image.format == "WEBP":
        return b"VP8 " in content[12:16] or (b"VP8X" in content[12:16] and b"VP8 " in content)
    is_lossy_tiff = "jpeg" in str(image.info.get("compression", ""))
    return image.format in _LOSSY or (image.format == "TIFF" and is_lossy_tiff)


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
        turn = _turn(image, changes)
        base, alpha = _split(image, changes)
        if turn is not None:
            base, alpha = base.transpose(turn), alpha and alpha.transpose(turn)
        base = _in_srgb(base, image.info.get("icc_profile"), changes)
        if alpha is not None:
            base = _on_background(base, alpha, background)
            changes.append("alpha")
    except (UnusableImageError, MemoryError):
        raise
    except Exception as error:  # odd metadata makes Pillow raise any exception
        raise UnusableImageError(f"cannot be converted to RGB ({error})") from None
    return ConvertedImage(base, tuple(changes))


def _turn(image: Image.Image, changes: list[str]) -> Image.Transpose | None:
    try:
        turn = _TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata counts as none
        return None
    if turn is not None:
        changes.append("EXIF orientation")
    return turn


def _split(image: Image.Image, changes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """The colors in mode L, RGB or CMYK, and the alpha channel (None: opaque)."""
    mode = image.mode
    if mode in ("RGB", "L") and "transparency" not in image.info:
        return image, None
    if mode == "I" or mode.startswith("I;16"):
        return _from_16_bits(image)
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


def _from_16_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise UnusableImageError("has values of 32 bits; convert it to 8 or 16 bits first")
    key = image.info.get("transparency")
    clear = values == key if isinstance(key, int) else np.zeros(1, bool)
    white, is_inverted = 0xFFFF, False
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        is_inverted = tags.get(_PHOTOMETRIC_TAG) == 0
        if tags.get(_BITS_TAG, (16,))[0] == 12:
            white = 0xFFF  # Pillow does not scale 12 bits
        if is_inverted and not _inverts_16_bits():
            values = white - values
    if is_inverted:  # the upper 8 bits, which libtiff shows, too
        scaled = values * 256 // (white + 1)
    else:
        scaled = (255 * values + white // 2) // white
    alpha = Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)) if clear.any() else None
    return Image.fromarray(scaled.astype(np.uint8)), alpha


@cache
def _inverts_16_bits() -> bool:
    """Whether Pillow inverts gray TIFFs of 16 bits whose white is zero; release 13.0 does not."""
    stream = io.BytesIO()
    Image.new("I;16", (1, 1)).save(stream, "TIFF")
    entry = struct.pack("<HHI", _PHOTOMETRIC_TAG, 3, 1)  # one SHORT; its value follows
    content = stream.getvalue().replace(entry + b"\1", entry + b"\0")
    return bool(np.asarray(Image.open(io.BytesIO(content)))[0, 0])


def _in_srgb(image: Image.Image, profile: bytes | None, changes: list[str]) -> Image.Image:
    if profile:
        try:
            convert = _profile_conversion(bytes(profile), image.mode)
        except _UnusableProfileError:
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


def _on_background(base: Image.Image, alpha: Image.Image, background: Color) -> Image.Image:
    is_gray = background[0] == background[1] == background[2]
    if base.mode == "L" and is_gray:
        return Image.composite(base, Image.new("L", base.size, background[0]), alpha)
    return Image.composite(base.convert("RGB"), Image.new("RGB", base.size, background), alpha)


class _UnusableProfileError(Sg3flowError):
    """A profile is damaged, or for another color space than that of the image."""


@lru_cache(maxsize=16)
def _profile_conversion(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """The conversion from a profile to sRGB; None: the profile is sRGB, whatever its name.

    Args:
        profile: an ICC profile.
        mode: L, RGB or CMYK, the mode of the images to convert.

    Raises:
        _UnusableProfileError: it is damaged or for another color space.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
            raise _UnusableProfileError("the profile is for another color space")
        # Unchanged to the bit: a conversion from sRGB to sRGB would only add rounding.
        if mode != "CMYK" and _is_srgb(source, mode):
            return None
        return _to_srgb(source, mode, ImageCms.Intent.PERCEPTUAL).apply
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise _UnusableProfileError(str(error)) from None


def _is_srgb(source: ImageCms.ImageCmsProfile, mode: str) -> bool:
    """Whether curves and primaries of a profile are those of sRGB, up to its rounding.

    Judged by what the profile does to all grays and to a grid of colors. Descriptions are no help:
    linear and wide-gamut profiles have "sRGB" in theirs, and small sRGB profiles have not.
    """
    # The intent of tables that keeps colors as they are; others map them to the range of a print.
    transform = _to_srgb(source, mode, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    colors = _probe_colors()
    probe = Image.fromarray(colors if mode == "RGB" else np.ascontiguousarray(colors[:, :256, 0]))
    off = np.asarray(transform.apply(probe)).astype(np.int64) - np.asarray(probe.convert("RGB"))
    return bool(np.abs(off).max() <= _SRGB_TOLERANCE)


def _to_srgb(
    source: ImageCms.ImageCmsProfile, mode: str, intent: ImageCms.Intent
) -> ImageCms.ImageCmsTransform:
    # Little CMS samples curves of gray at a few points: shadows of a linear one are off by 10.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    return ImageCms.buildTransform(source, _srgb(), mode, "RGB", intent, flags)


@cache
def _probe_colors() -> np.ndarray:
    """All 256 grays, then a grid of colors: uint8 [1, N, 3]."""
    grays = [(value,) * 3 for value in range(256)]
    return np.array([[*grays, *product(range(0, 256, 51), repeat=3)]], np.uint8)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
