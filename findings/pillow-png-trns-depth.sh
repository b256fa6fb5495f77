#!/usr/bin/env bash
# Pillow 13.0.0: the transparent color of a PNG (tRNS) is compared with pixels of another depth.
#
# The PNG specification gives the color at the depth of the image. Pillow scales the pixels of 4 bits
# to 8 and keeps of color of 16 bits the upper 8, but not the key: in a gray PNG of 4 bits the key 7 is
# compared with the pixel 7 * 17, so nothing is transparent; in an RGB PNG of 16 bits the key is
# compared with the upper bytes, so (256, 512, 768) is transparent where the key is (1, 2, 3), and the
# pixel (1, 2, 3) is not.
# Expected: alpha 0 for exactly the pixels that equal the key.
# What to do: apply tRNS yourself at the file's depth (libpng does), or pack such files with care.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pillow==13.0.0"
cd "$work"
"$work/venv/bin/python" - <<'PY'
import io
import struct
import sys
import zlib

import PIL
from PIL import Image


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def alpha(depth, color_type, row, key):
    """Alpha of the two pixels of a PNG."""
    head = struct.pack(">IIBBBBB", 2, 1, depth, color_type, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    return [image.getpixel((x, 0))[3] for x in (0, 1)]


gray = alpha(4, 0, bytes([0x78]), struct.pack(">H", 7))  # pixels 7 and 8, key 7
color = alpha(16, 2, struct.pack(">6H", 1, 2, 3, 256, 512, 768), struct.pack(">3H", 1, 2, 3))
print("pillow", PIL.__version__)
print("gray of 4 bits: pixels 7 and 8, key 7: alpha", gray, "expected [0, 255]")
print("RGB of 16 bits: pixels (1, 2, 3) and (256, 512, 768), key (1, 2, 3): alpha", color, "expected [0, 255]")
if (gray, color) != ([255, 255], [255, 0]):
    sys.exit("the behavior has changed")
PY
