"""Packing against a plain loop with Pillow in one process.

Draws JPEGs of 512 px, packs them to 256 px, and prints for each variant images per second, their
ratio, and the CPU time per image over all processes, which matters if other work uses the cores.
The variants run by turns, so that other load slows all alike. ``bare`` only decodes, scales,
encodes and writes; ``same`` also computes the manifest columns of each image.

    python benchmarks/pack.py --images 400 --rounds 5 --workers 2
"""

import argparse
import hashlib
import io
import json
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageStat

from sg3flow.config import PackConfig
from sg3flow.data.packing import pack_images
from sg3flow.data.perceptual_hash import perceptual_hash

SIDE, TARGET = 512, 256


def draw_photos(folder: Path, images: int) -> None:
    """JPEGs with the bytes of photos: soft shapes under fine noise, about 60 kB each."""
    for number in range(images):
        random = np.random.RandomState(number)
        soft = Image.fromarray(random.randint(0, 256, (12, 12, 3), np.uint8))
        pixels = np.asarray(soft.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
        noisy = pixels + random.normal(0, 8, pixels.shape).astype(np.int16)
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number:06d}.jpg", quality=90)


def plain_loop(folder: Path, dest: Path, with_manifest: bool) -> None:
    """A simple script; ``with_manifest``: it also computes the manifest columns."""
    rows = []
    with zipfile.ZipFile(dest, "w", zipfile.ZIP_STORED) as archive:
        for number, path in enumerate(sorted(folder.iterdir())):
            content = path.read_bytes()
            picture = Image.open(io.BytesIO(content)).convert("RGB")
            scaled = picture.resize((TARGET, TARGET), Image.Resampling.LANCZOS)
            stream = io.BytesIO()
            scaled.save(stream, "PNG", compress_level=0)
            name = f"{number // 1000:05d}/img{number:08d}.png"
            archive.writestr(name, stream.getvalue())
            if with_manifest:
                rows.append([path.name, name, *facts(content, picture, scaled)])
        archive.writestr("dataset.json", json.dumps({"labels": None}))
    if with_manifest:
        dest.with_suffix(".json").write_text(json.dumps(rows))


def facts(content: bytes, picture: Image.Image, scaled: Image.Image) -> list[object]:
    gray = picture.convert("L")
    statistic = ImageStat.Stat(gray)
    digests = [content, picture.tobytes(), scaled.tobytes()]
    return [
        *(hashlib.sha256(each).hexdigest() for each in digests),
        *picture.size,
        statistic.mean[0],
        statistic.stddev[0],
        perceptual_hash(gray),
    ]


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time, and CPU time including child processes that have ended."""
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - start, sum(os.times()[:4]) - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder, "raw"), Path(folder, "out")
        raw.mkdir()
        out.mkdir()
        draw_photos(raw, asked.images)
        config = PackConfig(resolution=f"{TARGET}x{TARGET}")
        ours = out / "ours.zip", out / "ours.parquet"
        ways: dict[str, Callable[[], object]] = {
            "bare": lambda: plain_loop(raw, out / "bare.zip", False),
            "same": lambda: plain_loop(raw, out / "same.zip", True),
            "sg3flow": lambda: pack_images(raw, *ours, config, workers=asked.workers),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(asked.rounds):
            for name, work in ways.items():
                os.sync()  # ours brings its set to the disk: not what the others left, too
                times[name].append(seconds(work))
    for name, each in times.items():
        wall, cpu = (statistics.median(values) for values in zip(*each, strict=True))
        pairs = zip(each, times["sg3flow"], strict=True)
        ratio = statistics.median(one[0] / ours[0] for one, ours in pairs)
        print(
            f"{name:8} {asked.images / wall:7.1f} images/s, "
            f"{1e3 * cpu / asked.images:.2f} ms CPU per image; "
            f"sg3flow is {ratio:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
