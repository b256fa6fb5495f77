"""Pixels of the entries of a packed set.

PNGs without compression leave the decoder only the row filters to undo. libspng (package pyspng)
does that three and a half times as fast as Pillow, with the same pixels (docs/data.md has the
figures); where it is not installed, or for any other picture, Pillow decodes.
"""

import importlib
import io
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
from PIL import Image

# Signature, then the first chunk: its length and name, width, height, bit depth, colour type.
_PNG_START = struct.Struct(">8s4x4sIIBB")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PLAIN_TYPES = {0: "L", 2: "RGB"}


def decode_pixels(content: bytes) -> tuple[str, np.ndarray]:
    """The mode of a picture file, in Pillow's words, and its pixels.

    Raises:
        Exception: whatever Pillow raises over a damaged file.
    """
    plain = _plain_png(content)
    fast = _fast_decoder()
    if plain is not None and fast is not None:
        mode, shape = plain
        with suppress(Exception):  # damaged, or more than it seems: Pillow says what it is
            pixels = np.asarray(fast(content))
            if pixels.size == np.prod(shape) and pixels.dtype == np.uint8:
                return mode, pixels.reshape(shape)
    with Image.open(io.BytesIO(content)) as picture:
        return picture.mode, np.array(picture)


def _plain_png(content: bytes) -> tuple[str, tuple[int, int, int]] | None:
    """Mode and shape of a PNG with 8 bits a channel, grey or RGB; None: it is something else."""
    if len(content) < _PNG_START.size:
        return None
    signature, chunk, width, height, depth, kind = _PNG_START.unpack_from(content)
    if signature != _PNG_SIGNATURE or chunk != b"IHDR" or depth != 8 or kind not in _PLAIN_TYPES:
        return None
    return _PLAIN_TYPES[kind], (height, width, 1 if kind == 0 else 3)


@cache
def _fast_decoder() -> Callable[[bytes], np.ndarray] | None:
    try:
        load: Callable[[bytes], np.ndarray] = importlib.import_module("pyspng").load
    except ImportError:
        return None
    return load
