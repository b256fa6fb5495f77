"""PNGs of stored rows: nothing to search when they are written, nothing to undo when they are read.

Pillow tries every row filter even where nothing is compressed, which takes longer than all else
that packing adds to a picture; and a decoder has to undo the filters each time it reads the file.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_BLOCK_BYTES = 0xFFFF  # the longest stored block of deflate
_COLOUR_TYPES = {1: 0, 3: 2}  # by channels: grey, RGB


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG without filters and compression, the same bytes with every library.

    Args:
        pixels: uint8 [H, W] or [H, W, 1] (grey), or [H, W, 3] (RGB).
    """
    height, width = pixels.shape[:2]
    kind = _COLOUR_TYPES[pixels.size // (height * width)]
    # Each row starts with the number of its filter; 0 is none.
    rows = np.zeros((height, 1 + pixels.size // height), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = (
        *_chunk(b"IHDR", [header]),
        *_chunk(b"IDAT", list(_stored(rows.reshape(-1).data))),
        *_chunk(b"IEND", []),
    )
    return b"".join((b"\x89PNG\r\n\x1a\n", *chunks))


def _chunk(kind: bytes, pieces: list[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    check = zlib.crc32(kind)
    for piece in pieces:
        check = zlib.crc32(piece, check)
    yield struct.pack(">I", sum(map(len, pieces))) + kind
    yield from pieces
    yield struct.pack(">I", check)


def _stored(content: memoryview) -> Iterator[bytes | memoryview]:
    """A zlib stream (RFC 1950) of stored deflate blocks (RFC 1951, Sec. 3.2.4), in pieces."""
    yield b"\x78\x01"
    for start in range(0, len(content), _BLOCK_BYTES):
        block = content[start : start + _BLOCK_BYTES]
        is_last = start + _BLOCK_BYTES >= len(content)
        yield struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF)
        yield block
    yield struct.pack(">I", zlib.adler32(content))
