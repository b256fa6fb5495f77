"""PNG decoders, on images as packed sets store them.

Compares Pillow with whichever of pyspng, opencv-python-headless and imagecodecs are installed; CPU
time per image, the best of many rounds by turns. The reasons for the choice are in docs/data.md.
``--filters`` uses files as Pillow writes them, with filtered rows, like those of public tools.

    python benchmarks/png_decode.py --side 256
"""

import argparse
import importlib
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from sg3flow.data.packed_form import encode_png

Decoder = Callable[[bytes], np.ndarray]


def draw(side: int, number: int) -> np.ndarray:
    """Soft shapes with fine noise, similar to photos; uint8 [side, side, 3]."""
    random = np.random.RandomState(number)
    soft = Image.fromarray(random.randint(0, 256, (12, 12, 3), np.uint8))
    pixels = np.asarray(soft.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    return (pixels + random.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, filters: bool) -> bytes:
    if not filters:
        return encode_png(pixels)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def decoders() -> dict[str, Decoder]:
    """All installed decoders; each returns RGB."""
    found: dict[str, Decoder] = {
        "pillow": lambda content: np.array(Image.open(io.BytesIO(content)))
    }
    if spng := installed("pyspng"):
        found["pyspng"] = spng.load
    if cv := installed("cv2"):
        cv.setNumThreads(1)
        found["opencv"] = lambda content: cv.cvtColor(
            cv.imdecode(np.frombuffer(content, np.uint8), cv.IMREAD_UNCHANGED), cv.COLOR_BGR2RGB
        )
    if codecs := installed("imagecodecs"):
        found["imagecodecs (libpng)"] = codecs.png_decode
        found["imagecodecs (libspng)"] = codecs.spng_decode
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--filters", action="store_true", help="as Pillow writes them")
    asked = parser.parse_args()
    pictures = [draw(asked.side, number) for number in range(asked.images)]
    files = [encoded(pixels, asked.filters) for pixels in pictures]
    best = dict.fromkeys(decoders(), float("inf"))
    for _ in range(asked.rounds):
        for name, decode in decoders().items():
            assert np.array_equal(decode(files[0]), pictures[0]), name
            start = time.process_time()
            for content in files:
                decode(content)
            best[name] = min(best[name], (time.process_time() - start) / len(files))
    for name, seconds in sorted(best.items(), key=lambda item: item[1]):
        print(f"{name:22} {1e3 * seconds:.3f} ms, {best['pillow'] / seconds:.1f} times as fast")


if __name__ == "__main__":
    main()
