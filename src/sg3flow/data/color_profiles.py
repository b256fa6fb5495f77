"""ICC profiles: whether one is sRGB, and the conversion of images from the others to sRGB."""

import io
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import product

import numpy as np
from PIL import Image, ImageCms

from sg3flow.errors import Sg3flowError

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# In 8-bit values: a table of 26 points for sRGB's curve is off by 1, gamma 2.2 by 9.
_SRGB_TOLERANCE = 2


class UnusableProfileError(Sg3flowError):
    """A profile is damaged, or for another color space than that of the image."""


@lru_cache(maxsize=16)
def profile_conversion(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """The conversion from a profile to sRGB; None: the profile is sRGB, whatever its name.

    Args:
        profile: an ICC profile.
        mode: L, RGB or CMYK, the mode of the images to convert.

    Raises:
        UnusableProfileError: it is damaged or for another color space.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            raise UnusableProfileError("the profile is for another color space")
        # Unchanged to the bit: a conversion from sRGB to sRGB would only add rounding.
        if mode != "CMYK" and _is_srgb(source, mode):
            return None
        return _to_srgb(source, mode, ImageCms.Intent.PERCEPTUAL).apply
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise UnusableProfileError(str(error)) from None


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
