"""Equivariance metrics: ideal translation and rotation of images (Karras et al. 2021, App. E).

Every operator takes images ``[N, C, H, W]`` and returns the moved images and a mask of the same
shape: 1 where the result is defined, 0 elsewhere. The x axis points right, the y axis down.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate, ratio_estimate
from sg3flow.metrics.generation import MeasuredGenerator
from sg3flow.networks.stylegan3 import input_transform, motion_matrix, placed
from sg3flow.ops import filter2d, upsample2d

_LANCZOS = 3  # lobes of the windows
_FILTER_PIXELS = 2 * _LANCZOS  # two windows convolved reach twice as far
_GRID_PIXELS = 64  # half the width of the grid for filter design
_ROTATION_UP = 4
_MAX_SHIFT = 1 / 8  # of the width and height
_PEAK_TO_PEAK = 2.0
_MIN_SQUARED_ERROR = 2.0**-46  # square of the rounding error of float32; limits values to 144.5 dB
Inputs = Iterable[tuple[torch.Tensor, torch.Tensor]]
Array = NDArray[np.float64]
Draw = Callable[[torch.Tensor], torch.Tensor]


def int_shift(images: torch.Tensor, tx: float, ty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the content by ``tx`` widths and ``ty`` heights, rounded to whole pixels."""
    height, width = images.shape[-2:]
    from_x, to_x = _overlap(round(tx * width), width)
    from_y, to_y = _overlap(round(ty * height), height)
    moved, mask = torch.zeros_like(images), torch.zeros_like(images)
    moved[..., to_y, to_x] = images[..., from_y, from_x]
    mask[..., to_y, to_x] = 1
    return moved, mask


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """The part of an axis that stays in view after a shift: source and destination."""
    kept = max(size - abs(shift), 0)
    start, place = (min(max(by, 0), size) for by in (-shift, shift))
    return slice(start, start + kept), slice(place, place + kept)


def frac_shift(images: torch.Tensor, tx: float, ty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the content by ``tx`` widths and ``ty`` heights, interpolated by a Lanczos filter."""
    moved, mask = images, torch.ones_like(images)
    for axis, shift in ((-1, tx), (-2, ty)):
        pixels = shift * images.shape[axis]
        moved = _shift_axis(moved, axis, pixels)
        mask = mask * _shift_mask(images, axis, pixels)
    return moved, mask


def _shift_axis(images: torch.Tensor, axis: int, pixels: float) -> torch.Tensor:
    """``y[p] = sum over t of tap_t x[p - i - t]``, zero outside, i the whole part of the shift."""
    whole = math.floor(pixels)
    offsets = torch.arange(1 - _LANCZOS, _LANCZOS + 1, dtype=torch.float64)
    distance = offsets - (pixels - whole)
    taps = torch.sinc(distance) * torch.sinc(distance / _LANCZOS)
    weights: list[float] = (taps / taps.sum()).tolist()
    moved = torch.zeros_like(images)
    size = images.shape[axis]
    for offset, tap in zip(range(1 - _LANCZOS, _LANCZOS + 1), weights, strict=True):
        source, place = _overlap(whole + offset, size)
        part = images.narrow(axis, source.start, source.stop - source.start)
        moved.narrow(axis, place.start, place.stop - place.start).add_(part, alpha=tap)
    return moved


def _shift_mask(images: torch.Tensor, axis: int, pixels: float) -> torch.Tensor:
    """1 where all taps of ``_shift_axis`` fall on the image, shaped to broadcast over it."""
    whole, size = math.floor(pixels), images.shape[axis]
    positions = torch.arange(size, device=images.device)
    first, end = max(whole + _LANCZOS, 0), size + min(whole - _LANCZOS + 1, 0)
    valid = ((positions >= first) & (positions < end)).to(images.dtype)
    return valid if axis == -1 else valid[:, None]


def rot(images: torch.Tensor, angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate the content by ``angle`` (radians): ideal band-limited resampling at 4x."""
    up, height, width = _ROTATION_UP, images.shape[-2], images.shape[-1]
    motion = _rotation(angle)
    taps = lowpass_for(motion, up).to(images)
    pad = len(taps) // 2
    dense = upsample2d(images, taps, up=up, padding=pad)
    grid = _sampling_grid(images, torch.linalg.inv(motion), pad)
    rectangle = torch.zeros_like(dense)
    inset = 2 * pad + 1
    rectangle[..., inset : height * up + 2 * pad - inset, inset : width * up + 2 * pad - inset] = 1
    moved = functional.grid_sample(dense, grid, "bilinear", "zeros", align_corners=False)
    return moved, functional.grid_sample(rectangle, grid, "nearest", "zeros", align_corners=False)


def _sampling_grid(images: torch.Tensor, inverse: torch.Tensor, pad: int) -> torch.Tensor:
    """Position of each output pixel in the padded dense image, ``[N, H, W, 2]``."""
    up, height, width = _ROTATION_UP, images.shape[-2], images.shape[-1]
    dense = torch.tensor([[width * up], [height * up]])
    # The dense samples of a pixel start at its center, half a spacing from the origin of the grid.
    theta = torch.cat([inverse.float(), 1 / dense], dim=1) * (dense / (dense + 2 * pad))
    batch = theta.to(images)[None].expand(len(images), 2, 3)
    return functional.affine_grid(batch, list(images.shape), align_corners=False)


def pseudo(images: torch.Tensor, angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Filter images generated with rotation ``angle`` in the same way as ``rot`` filters."""
    taps = lowpass_for(_rotation(-angle), 1).to(images)
    edge = len(taps) // 2
    mask = torch.zeros_like(images)
    mask[..., edge : images.shape[-2] - edge, edge : images.shape[-1] - edge] = 1
    return filter2d(images, taps), mask


def _rotation(angle: float) -> torch.Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)


def lowpass_for(matrix: torch.Tensor, up: int) -> torch.Tensor:
    """Low-pass filter for the pixel grids before and after the motion ``matrix`` ``[2, 2]``.

    The sinc functions of both grids are convolved, and so are their Lanczos windows.

    Args:
        matrix: float64.
        up: taps per pixel.

    Returns:
        ``[T, T]``, the taps less than 6 pixels from the center; each of the ``up * up`` phases
        sums to ``1 / up^2``.
    """
    steps = torch.arange(-_GRID_PIXELS * up, _GRID_PIXELS * up, dtype=torch.float64) / up
    yi, xi = torch.meshgrid(steps, steps, indexing="ij")
    xo = matrix[0, 0] * xi + matrix[0, 1] * yi
    yo = matrix[1, 0] * xi + matrix[1, 1] * yi
    taps = _convolved(torch.sinc(xi) * torch.sinc(yi), torch.sinc(xo) * torch.sinc(yo))
    taps = taps * _convolved(_lanczos(xi) * _lanczos(yi), _lanczos(xo) * _lanczos(yo))
    middle, reach = _GRID_PIXELS * up, _FILTER_PIXELS * up - 1
    kept = slice(middle - reach, middle + reach + 1)
    taps = taps[kept, kept].clone()
    for row in range(up):
        for column in range(up):
            taps[row::up, column::up] /= taps[row::up, column::up].sum() * up * up
    return taps


def _lanczos(distance: torch.Tensor) -> torch.Tensor:
    return torch.sinc(distance / _LANCZOS) * (distance.abs() < _LANCZOS)


def _convolved(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Circular convolution of two grids with the origin in the middle."""
    product = torch.fft.rfft2(torch.fft.ifftshift(a)) * torch.fft.rfft2(torch.fft.ifftshift(b))
    convolved: torch.Tensor = torch.fft.fftshift(torch.fft.irfft2(product, s=a.shape))
    return convolved


def eqt(G: MeasuredGenerator, inputs: Inputs, *, fractional: bool, seed: int) -> float:
    """Translation equivariance in dB: EQ-T, or EQ-T_frac with shifts between the pixels.

    Args:
        G: a StyleGAN3 generator.
        inputs: batches of ``z`` and ``c`` on its device; each batch gets one random shift, uniform
            up to 1/8 of the image on both axes.
        fractional: whether shifts include fractions of a pixel.
        seed: seed of the shifts.

    Raises:
        MetricError: the generator has no input transform, or generates values that are not finite.
    """
    kind = "eqt_frac" if fractional else "eqt_int"
    return equivariance(motion_errors(G, kind, inputs, random_motions(kind, seed))).value


def eqr(G: MeasuredGenerator, inputs: Inputs, *, seed: int) -> float:
    """Rotation equivariance EQ-R in dB, over angles of the full circle; arguments as in ``eqt``.

    Raises:
        MetricError: the generator has no input transform, or generates values that are not finite.
    """
    return equivariance(motion_errors(G, "eqr", inputs, random_motions("eqr", seed))).value


def random_motions(kind: str, seed: int) -> Iterator[tuple[float, ...]]:
    """Shifts ``(x, y)`` in image widths for ``eqt_int`` and ``eqt_frac``, angles for ``eqr``."""
    random = np.random.RandomState(seed)
    while True:
        if kind == "eqr":
            yield (float(random.uniform(-math.pi, math.pi)),)
        else:
            yield tuple(random.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2).tolist())


@torch.no_grad()
def motion_errors(
    G: MeasuredGenerator, kind: str, inputs: Inputs, motions: Iterator[tuple[float, ...]]
) -> Array:
    """Squared differences between images moved by the input transform and images moved ideally.

    Args:
        G: a StyleGAN3 generator.
        kind: ``eqt_int``, ``eqt_frac`` or ``eqr``.
        inputs: batches of ``z`` and ``c`` on its device, each moved by the next motion.
        motions: see ``random_motions``.

    Returns:
        For each batch, the sum over its valid samples and their number, ``[batches, 2]``.

    Raises:
        MetricError: the generator has no input transform, or generates values that are not finite.
    """
    require_movable(G)
    compare = _COMPARISONS[kind]
    errors = []
    for (z, c), motion in zip(inputs, motions, strict=False):  # motions are infinite
        ws = G.mapping(z, c)

        def draw(matrix: torch.Tensor, ws: torch.Tensor = ws) -> torch.Tensor:
            with placed(G, matrix):
                return G.synthesis(ws, noise_mode="const", force_fp32=True)

        errors.append(compare(draw(torch.eye(3)), draw, *motion))
    found = np.array(errors, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(found).all():
        raise MetricError("the network generates values that are not finite")
    return found


def equivariance(errors: Array) -> Estimate:
    """PSNR in dB from the errors ``[batches, 2]`` of all motions.

    Raises:
        MetricError: no sample is valid.
    """
    if errors[:, 1].sum() == 0:
        raise MetricError("no pixel stays in view under any of the motions; use more images")
    mean = ratio_estimate(errors[:, 0], errors[:, 1])
    value = psnr(float(errors[:, 0].sum()), float(errors[:, 1].sum()))
    if mean.standard_error is None or mean.terms is None:
        return Estimate(value, None)
    slope = 10 / math.log(10) / max(mean.value, _MIN_SQUARED_ERROR)  # dB per squared error
    return Estimate(value, mean.standard_error * slope, mean.terms * -slope)


def psnr(squared_error: float, count: float) -> float:
    """PSNR in dB for images in [-1, 1], from summed squared differences over ``count`` samples."""
    mean = max(squared_error / count, _MIN_SQUARED_ERROR)
    return 10 * math.log10(_PEAK_TO_PEAK**2 / mean)


def require_movable(G: MeasuredGenerator) -> None:
    """Check that the generator has an input transform.

    Raises:
        MetricError: it has none, like every StyleGAN2.
    """
    if input_transform(G) is None:
        raise MetricError(
            f"{type(G).__name__} has no input transform, so equivariance cannot be measured; "
            "remove eqt… and eqr… from the metrics of a StyleGAN2 network"
        )


def _shifted_whole(still: torch.Tensor, draw: Draw, tx: float, ty: float) -> tuple[float, float]:
    height, width = still.shape[-2:]
    tx, ty = round(tx * width) / width, round(ty * height) / height
    return _squared_error(draw(motion_matrix((tx, ty), 0)), *int_shift(still, tx, ty))


def _shifted_fraction(still: torch.Tensor, draw: Draw, tx: float, ty: float) -> tuple[float, float]:
    return _squared_error(draw(motion_matrix((tx, ty), 0)), *frac_shift(still, tx, ty))


def _turned(still: torch.Tensor, draw: Draw, angle: float) -> tuple[float, float]:
    ideal, ideal_mask = rot(still, angle)
    filtered, filtered_mask = pseudo(draw(motion_matrix((0, 0), angle)), angle)
    return _squared_error(filtered, ideal, ideal_mask * filtered_mask)


def _squared_error(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    squares = (a - b).double().square() * mask
    return float(squares.sum()), float(mask.double().sum())


_COMPARISONS: dict[str, Callable[..., tuple[float, float]]] = {
    "eqt_int": _shifted_whole,
    "eqt_frac": _shifted_fraction,
    "eqr": _turned,
}
