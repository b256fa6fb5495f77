"""What a projection reports while it runs: curves and pictures by step, and the frames of a video.

Each function passes the steps on, so that they form a chain around the iterator.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch

from sg3flow.latent.image_distances import decibels
from sg3flow.networks.layers import to_uint8
from sg3flow.rendering.grid import enlarged
from sg3flow.rendering.images import Image, png_bytes
from sg3flow.rendering.video import write_mp4

_BATCH = 50  # points per write
_PICTURES = 10
_FPS = 30
_MIN_TILE = 256

Point = tuple[int, float, Mapping[str, float]]


class Step(Protocol):
    """A step of the projection or of pivotal tuning."""

    @property
    def step(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def psnr(self) -> float: ...
    @property
    def img(self) -> torch.Tensor: ...


S = TypeVar("S", bound=Step)


class ProjectionReporter(Protocol):
    """Receives what a projection reports."""

    def curves(self, points: Iterable[Point]) -> None:
        """Points: step, time in seconds since 1970, and values by name."""

    def step_image(self, content: bytes, key: str, step: int) -> None:
        """A PNG under a key that is the same at every step."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Results at the end."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file of the result."""


def reported(
    steps: Iterable[S], total: int, reporter: ProjectionReporter, group: str, target: Image
) -> Iterator[S]:
    """Report loss and PSNR of every step, and the picture beside its target of some.

    Args:
        group: the first part of the names, such as ``projection``.
        target: uint8 [R, R, C].
    """
    period, points = max(1, total // _PICTURES), []
    try:
        for step in steps:
            values = {f"{group}/loss": step.loss, f"{group}/psnr": step.psnr}
            points.append((step.step, time.time(), values))
            if step.step % period == 0 or step.step == total:
                pair = png_bytes(np.hstack([target, image_of(step.img)]))
                reporter.step_image(pair, f"{group}/picture", step.step)
            if len(points) >= _BATCH:
                reporter.curves(points)
                points = []
            yield step
    finally:
        if points:
            reporter.curves(points)


def last_of(steps: Iterable[S], video: Path | None, target: Image) -> S:
    """Run through the steps; the last one.

    Args:
        video: an MP4 to write, with the target beside the picture of each step; None: none.
    """
    found: deque[S] = deque(maxlen=1)

    def kept() -> Iterator[S]:
        for step in steps:
            found.append(step)
            yield step

    if video is None:
        found.extend(steps)
    else:
        left = enlarged(target, _MIN_TILE)
        frames = (np.hstack([left, enlarged(image_of(s.img), _MIN_TILE)]) for s in kept())
        write_mp4(frames, video, _FPS)
    return found[0]


def image_of(img: torch.Tensor) -> Image:
    """The picture, uint8 [R, R, C], of float32 [1, C, R, R]."""
    image: Image = to_uint8(img)[0].permute(1, 2, 0).contiguous().cpu().numpy()
    return image


def picture_psnr(a: Image, b: Image) -> float:
    """Peak signal-to-noise ratio of two pictures, uint8, in dB; at most 100."""
    error = np.square(a.astype(np.float64) - b.astype(np.float64)).mean()
    return decibels(float(error), peak=255.0)
