"""Pixels of the entries of a packed set.

PNGs without compression leave the decoder only row filters to undo, and ours have none. libspng
(package pyspng) reads them at least twice as fast as Pillow, with the same pixels (docs/data.md has
the figures); where it is not installed, or for any other picture, Pillow decodes.
"""

import importlib
import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
from PIL import Image

# Signature, then the first chunk: its length and name, width, height, bit depth, colour type.
_PNG_START = struct.Struct(">8s4x4sIIBB")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_PLAIN_TYPES = {0: "L", 2: "RGB"}


def decode_pixels(content: bytes) -> tuple[str, np.ndarray]:
    """The mode of a picture file, in Pillow's words, and its pixels.

    Raises:
        Exception: whatever Pillow raises over a damaged file.
    """
    plain = _plain_png(content)
    fast = _fast_decoder()
    if plain is not None and fast is not None and _is_whole(content):
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


def _is_whole(content: bytes) -> bool:
    """Whether every chunk has its CRC-32, up to the last: libspng takes what is there for all."""
    view, place = memoryview(content), len(_PNG_SIGNATURE)
    while len(content) - place >= _CHUNK.size + 4:
        length, kind = _CHUNK.unpack_from(content, place)
        end = place + _CHUNK.size + length
        if zlib.crc32(view[place + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return False
        if kind == b"IEND":
            return True
        place = end + 4
    return False


@cache
def _fast_decoder() -> Callable[[bytes], np.ndarray] | None:
    try:
        load: Callable[[bytes], np.ndarray] = importlib.import_module("pyspng").load
    except ImportError:
        return None
    return load
