"""From pixels to the bytes of a file; equal pixels give equal bytes, whatever the machine does."""

import io

import numpy as np
from PIL import Image as PillowImage

from sg3flow.rendering.images import Image, png_bytes

FORMATS = ("png", "jpeg", "webp")
DEFAULT_QUALITY = 90


def encoded(image: Image, kind: str, quality: int) -> bytes:
    """A picture [H, W, 1 or 3] uint8 as a file.

    Args:
        kind: one of ``FORMATS``.
        quality: 1 to 100, for jpeg and webp; PNG keeps every bit.
    """
    if kind == "png":
        return png_bytes(image)
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    stream = io.BytesIO()
    # No thinning of the colours: on the small pictures of a small network it shows.
    more = {"subsampling": 0} if kind == "jpeg" else {"method": 4}
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels))
    picture.save(stream, kind.upper(), quality=quality, **more)
    return stream.getvalue()
