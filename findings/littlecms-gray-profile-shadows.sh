#!/usr/bin/env bash
# Little CMS 2.19 in Pillow 13.0.0: a linear gray profile is converted wrongly in its shadows.
#
# ImageCms.buildTransform from a gray profile (one curve, gamma 1.0) to sRGB, L to RGB, at the default
# flags, maps the gray value 2 (0.8 % of white) to 12; the formula of sRGB gives 22. With
# Flags.NOOPTIMIZE, which forbids Little CMS to resample the curves, it is 22. An RGB profile with the
# same three curves is converted right with either flag.
# Expected: equal results up to rounding whatever the optimization.
# What to do: pass Flags.NOOPTIMIZE for gray profiles, or convert the 256 values yourself.
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

import PIL
from PIL import Image, ImageCms

D50 = struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
SRGB = {  # colorants adapted to D50, as in every sRGB profile
    b"rXYZ": (0.4361, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7141),
}


def profile(space):
    """An ICC profile of version 2 with linear curves."""
    linear = b"curv" + struct.pack(">IIH", 0, 1, 256)  # one curve: a gamma of 1.0
    name = b"linear\0"
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, len(name)) + name + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + D50,
        b"cprt": b"text\0\0\0\0CC0\0",
    }
    if space == b"GRAY":
        tags[b"kTRC"] = linear
    else:
        tags |= {n: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(x * 65536) for x in v)) for n, v in SRGB.items()}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), linear)
    table, body = struct.pack(">I", len(tags)), b""
    start = 132 + 12 * len(tags)
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s6H4s", start + len(body), b"", 0x02100000, b"mntr", space, b"XYZ ",
                       2026, 1, 1, 0, 0, 0, b"acsp")  # fmt: skip
    return ImageCms.ImageCmsProfile(io.BytesIO(head.ljust(68, b"\0") + D50 + bytes(48) + table + body))


def converted(space, mode, value, flags):
    transform = ImageCms.buildTransform(
        profile(space), ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags
    )
    pixel = value if mode == "L" else (value,) * 3
    return transform.apply(Image.new(mode, (1, 1), pixel)).getpixel((0, 0))


found = {
    (mode, str(flags).rpartition(".")[2]): converted(space, mode, 2, flags)
    for space, mode in ((b"GRAY", "L"), (b"RGB ", "RGB"))
    for flags in (ImageCms.Flags.NONE, ImageCms.Flags.NOOPTIMIZE)
}
print("pillow", PIL.__version__, "Little CMS", ImageCms.core.littlecms_version)
for (mode, flags), color in found.items():
    print(f"{mode:3} value 2, flags {flags}: {color}")
values = [color[0] for color in found.values()]
if values[0] != 12 or not all(21 <= value <= 23 for value in values[1:]):
    sys.exit("the behavior has changed")
PY
