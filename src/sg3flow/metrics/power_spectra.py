"""Average power spectra of images (Karras et al. 2021, Figure 5 and its appendix).

Images are normalized by mean and deviation of the reals, multiplied by a Kaiser window, and
transformed with finer frequencies than pixels give; the squared magnitudes are averaged over images
and channels. White noise of deviation 1 has 0 dB at all frequencies.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sg3flow.errors import MetricError

Array = NDArray[np.float64]
_PART_BYTES = 1 << 28
_LEAST = 1e-20  # -200 dB, for exactly constant images
_DB = 10 / math.log(10)


@dataclass(frozen=True)
class PixelStats:
    """Mean and standard deviation over all pixels and channels of a set, from 0 to 255."""

    mean: float
    std: float


@dataclass(frozen=True)
class Spectrum:
    """An average power spectrum.

    The half plane of a real image's spectrum: row i has the vertical frequency ``i / S``, or
    ``i / S - 1`` from the middle on, column j the horizontal frequency ``j / S``, in cycles per
    pixel; S is ``interp`` times the side of the images.

    Attributes:
        power: ``[S, S // 2 + 1]``.
        error: standard error of each power over images; nan for a single image.
        num_images: how many were averaged.
        side: of the images, in pixels.
    """

    power: Array
    error: Array
    num_images: int
    side: int

    @property
    def decibels(self) -> Array:
        """The power in dB, ``[S, S // 2 + 1]``."""
        return 10 * np.log10(np.maximum(self.power, _LEAST))

    @property
    def error_decibels(self) -> Array:
        """The standard error in dB, to first order."""
        return _DB * self.error / np.maximum(self.power, _LEAST)

    def full_decibels(self) -> Array:
        """All frequencies in dB, ``[S, S]``, the mean of the image in the middle."""
        half, size = self.decibels, len(self.power)
        rows = -np.arange(size) % size  # the spectrum of a real image is symmetric
        other = half[rows][:, 1 : (size + 1) // 2][:, ::-1]
        return np.fft.fftshift(np.concatenate([half, other], axis=1))

    def slices(self) -> tuple[Array, Array, Array]:
        """Horizontal and diagonal slices in dB.

        Returns:
            frequencies from 0 to 1/2 cycles per pixel ``[S // 2 + 1]``, the power at each of them
            along a horizontal line, and along a line at 45 degrees.
        """
        half, size = self.decibels, len(self.power)
        frequencies = np.arange(size // 2 + 1) / size
        diagonal = half[np.arange(size // 2 + 1), np.arange(size // 2 + 1)]
        at_45 = np.interp(frequencies, frequencies * math.sqrt(2), diagonal)
        return frequencies, half[0], at_45


@dataclass(frozen=True)
class Deviation:
    """How far two spectra are apart.

    Attributes:
        decibels: root of the mean squared difference over all frequencies, in dB.
        noise: what it would be for two samples of one distribution; nan if unknown.
    """

    decibels: float
    noise: float


class RunningSpectrum:
    """The average power spectrum of images that arrive in batches.

    Args:
        side: of the images, in pixels.
        stats: of the reals; they normalize all spectra that are compared.
        beta: shape of the Kaiser window; 0 is a square window.
        interp: how many times finer the frequencies are than those of the pixels.

    Raises:
        MetricError: the reals are all of one color.
    """

    def __init__(
        self, side: int, stats: PixelStats, *, beta: float, interp: int, device: torch.device
    ) -> None:
        if not stats.std > 0:
            raise MetricError("all pixels of the reals have one value; there is no spectrum")
        self._side, self._stats, self._size = side, stats, side * interp
        window = kaiser_window(side, beta) / stats.std
        self._window = torch.from_numpy(window).to(device=device, dtype=torch.float32)
        self._count = 0
        shape = (self._size, self._size // 2 + 1)
        self._sum = torch.zeros(shape, dtype=torch.float64)
        self._squares = torch.zeros(shape, dtype=torch.float64)

    @torch.inference_mode()
    def add(self, images: torch.Tensor) -> None:
        """Add images uint8 ``[N, C, H, W]``.

        Raises:
            MetricError: they are not squares of the side.
        """
        if tuple(images.shape[2:]) != (self._side, self._side):
            raise MetricError(
                f"expected images of {self._side}x{self._side} pixels as the others, found "
                f"{images.shape[3]}x{images.shape[2]}"
            )
        for part in torch.split(images, self._at_once(images.shape[1])):
            x = (part.to(self._window.device).float() - self._stats.mean) * self._window
            spectrum = torch.fft.rfft2(x, s=(self._size, self._size))
            power = (spectrum.real.square() + spectrum.imag.square()).mean(dim=1).double()
            self._sum += power.sum(dim=0).cpu()
            self._squares += power.square().sum(dim=0).cpu()
            self._count += len(part)

    def result(self) -> Spectrum:
        """The spectrum of all images so far.

        Raises:
            MetricError: there are none.
        """
        count = self._count
        if count == 0:
            raise MetricError("there are no images to compute a spectrum of")
        mean = (self._sum / count).numpy()
        error = np.full_like(mean, math.nan)
        if count > 1:
            variance = (self._squares / count).numpy() - mean**2
            error = np.sqrt(np.maximum(variance, 0) / (count - 1))
        return Spectrum(mean, error, count, self._side)

    def _at_once(self, channels: int) -> int:
        return max(_PART_BYTES // (8 * channels * self._size**2), 1)


def kaiser_window(side: int, beta: float) -> Array:
    """A Kaiser window in both directions, ``[side, side]``; its squares sum to 1."""
    line = np.kaiser(side, beta)
    window = np.outer(line, line)
    return window / math.sqrt(np.square(window).sum())


def deviation(a: Spectrum, b: Spectrum) -> Deviation:
    """How far two spectra of images of one size are apart.

    Raises:
        MetricError: they have other sizes.
    """
    if a.power.shape != b.power.shape:
        raise MetricError(
            f"spectra of images of {a.side} and {b.side} pixels cannot be compared; resize one set"
        )
    apart = np.square(a.decibels - b.decibels)
    noise = np.square(a.error_decibels) + np.square(b.error_decibels)
    return Deviation(math.sqrt(_plane_mean(apart)), math.sqrt(_plane_mean(noise)))


def _plane_mean(half: Array) -> float:
    """The mean over all frequencies of values of the half plane ``[S, S // 2 + 1]``."""
    weights = np.full(half.shape[1], 2.0)
    weights[0] = 1
    if len(half) % 2 == 0:
        weights[-1] = 1
    return float((half * weights).sum() / (len(half) * weights.sum()))


def pixel_stats(batches: Iterator[torch.Tensor]) -> PixelStats:
    """Mean and deviation over all pixels of images uint8 ``[N, C, H, W]``."""
    count, total, squares = 0, 0, 0
    for images in batches:
        values = images.long()
        count += values.numel()
        total += int(values.sum())
        squares += int(values.square().sum())
    mean = total / count
    return PixelStats(mean, math.sqrt(max(squares / count - mean**2, 0)))
