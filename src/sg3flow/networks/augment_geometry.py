"""Augmentation settings, and the geometric transforms."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sg3flow.device import sent
from sg3flow.errors import ConfigError
from sg3flow.networks.augment_random import (
    Numbers,
    RandomParameters,
    by_torch,
    cos_sin,
    identity,
    matrix_of,
    product,
    where,
)
from sg3flow.ops import downsample2d, setup_filter, upsample2d


@dataclass(frozen=True)
class AugmentConfig:
    """Probability, relative to ``p``, and strength of each transform; a multiplier of 0: never.

    ``*_max`` and ``*_std`` are the range or standard deviation of the random value: shifts in image
    widths, scales and gains in powers of two, rotation and hue in half turns, brightness in the
    units of the images (-1..1), ``cutout_size`` in image widths.
    """

    xflip: float = 0
    rotate90: float = 0
    xint: float = 0
    xint_max: float = 0.125
    scale: float = 0
    rotate: float = 0
    aniso: float = 0
    xfrac: float = 0
    scale_std: float = 0.2
    rotate_max: float = 1
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness: float = 0
    contrast: float = 0
    lumaflip: float = 0
    hue: float = 0
    saturation: float = 0
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1
    saturation_std: float = 1
    imgfilter: float = 0
    imgfilter_bands: tuple[float, ...] = (1, 1, 1, 1)
    imgfilter_std: float = 1
    noise: float = 0
    cutout: float = 0
    noise_std: float = 0.1
    cutout_size: float = 0.5

    def __post_init__(self) -> None:
        if len(self.imgfilter_bands) != 4:
            raise ConfigError(f"imgfilter_bands must be 4 numbers, not {len(self.imgfilter_bands)}")
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float) or not 0 <= number < float("inf"):
                    raise ConfigError(  # a file's value: its text may be longer than the memory
                        f"{field.name} must be a number >= 0, not "
                        f"{number if isinstance(number, int | float) else type(number).__name__}"
                    )


_BLITS = ("xflip", "rotate90", "xint")
_GENERAL_MAPS = ("scale", "rotate", "aniso", "xfrac")
_COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")

AUGMENT_PRESETS: dict[str, dict[str, float]] = {
    "bgc": dict.fromkeys((*_BLITS, *_GENERAL_MAPS, *_COLOR), 1),
}


# The least-asymmetric Daubechies wavelet of 6 vanishing moments ("sym6"), low-pass decomposition.
_SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
_MARGIN = len(_SYM6) // 2  # pixels around a sample that both filters together use


def wavelet_lowpass() -> torch.Tensor:
    """The 12 taps of the resampling filter, normalized to sum 1."""
    return setup_filter(_SYM6)


def geometry_matrix(
    strengths: AugmentConfig, draws: RandomParameters, height: int, width: int
) -> Numbers:
    """The inverse affine map of each image, [N, 3, 3]."""
    matrix = identity(draws.num_images, 3)
    for factor in (
        *_blits(strengths, draws, height, width),
        *_general_maps(strengths, draws, height, width),
    ):
        matrix = product(matrix, factor)
    return matrix


def apply_geometry(images: torch.Tensor, matrix: Numbers, lowpass: torch.Tensor) -> torch.Tensor:
    """Apply the affine maps ``matrix`` [N, 3, 3] to ``images`` [N, C, H, W].

    (1) Pad by reflection as far as needed; (2) double the resolution with an orthogonal wavelet;
    (3) sample bilinearly; (4) halve the resolution with the same wavelet. The identity map returns
    the images exactly.
    """
    num_images, num_channels, height, width = images.shape
    left, top, right, bottom = _margins(matrix, height, width)
    images = F.pad(images, [left, right, top, bottom], mode="reflect")
    images = upsample2d(images, lowpass, up=2)
    out_height, out_width = 2 * (height + _MARGIN), 2 * (width + _MARGIN)
    matrix = product(_translation((left - right) / 2, (top - bottom) / 2), matrix)
    matrix = product(_scaling(2, 2), matrix, _scaling(0.5, 0.5))
    matrix = product(_translation(-0.5, -0.5), matrix, _translation(0.5, 0.5))
    matrix = product(
        _scaling(2 / images.shape[3], 2 / images.shape[2]),
        matrix,
        _scaling(out_width / 2, out_height / 2),
    )
    theta = sent(torch.from_numpy(matrix[:, :2]).to(images.dtype), images.device)
    shape = [num_images, num_channels, out_height, out_width]
    images = sample_bilinear(images, F.affine_grid(theta, shape, align_corners=False))
    return downsample2d(images, lowpass, down=2, padding=-_MARGIN, flip_filter=True)


def sample_bilinear(images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """``F.grid_sample`` (bilinear, zeros outside) with derivatives of every order by ``images``.

    torch's ``grid_sample`` has the first derivative only, and R1 needs two. The grid gets none.
    """
    result: torch.Tensor = _Sample.apply(images, grid)  # type: ignore[no-untyped-call]
    return result


class _Sample(torch.autograd.Function):
    """Sampling is linear in the images: its gradient is the adjoint map, and so on."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grid,) = ctx.saved_tensors
        return _Spread.apply(grads[0], grid, ctx.shape), None  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    """The adjoint of ``_Sample``: adds every sample to the four pixels it was read from."""

    @staticmethod
    def forward(
        ctx: Any, samples: torch.Tensor, grid: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        ctx.save_for_backward(grid)
        images = samples.new_empty(
            shape
        )  # only its shape matters: the gradient of the grid is not computed
        modes = {"bilinear": 0, "zeros": 0}
        spread: torch.Tensor = torch.ops.aten.grid_sampler_2d_backward(
            samples, images, grid, modes["bilinear"], modes["zeros"], False, [True, False]
        )[0]
        return spread

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grid,) = ctx.saved_tensors
        return sample_bilinear(grads[0], grid), None, None


def _margins(matrix: Numbers, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels that the maps need beyond each edge: (left, top, right, bottom)."""
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = np.array([[-x, x, x, -x], [-y, -y, y, y], [1, 1, 1, 1]])
    mapped = product(matrix, corners)[:, :2]  # [N, (x, y), corner]
    low, high = (-mapped).max(axis=(0, 2)), mapped.max(axis=(0, 2))
    reach = np.concatenate([low, high]) + _MARGIN - np.array([x, y, x, y])
    limit = np.array([width - 1, height - 1, width - 1, height - 1])
    pixels = np.ceil(np.minimum(reach.clip(min=0), limit))
    left, top, right, bottom = (int(each) for each in pixels)
    return left, top, right, bottom


def _blits(s: AugmentConfig, draws: RandomParameters, height: int, width: int) -> Iterator[Numbers]:
    """Flips, quarter turns and whole-pixel shifts."""
    if s.xflip > 0:
        flip = where(draws.applied(s.xflip), draws.choice(2))
        yield _scaling(1 - 2 * flip, 1)
    if s.rotate90 > 0:
        yield _quarter_turns(where(draws.applied(s.rotate90), draws.choice(4)))
    if s.xint > 0:
        applied = draws.applied(s.xint)
        x, y = (draws.uniform(-s.xint_max, s.xint_max) for _ in range(2))
        x, y = np.round(x * width), np.round(y * height)
        yield _translation(-where(applied, x), -where(applied, y))


def _general_maps(
    s: AugmentConfig, draws: RandomParameters, height: int, width: int
) -> Iterator[Numbers]:
    """Scales, rotations and fractional shifts."""
    if s.scale > 0:
        inverse = _exp2(-where(draws.applied(s.scale), draws.normal(s.scale_std)))
        yield _scaling(inverse, inverse)
    if s.rotate > 0:
        yield _random_rotation(s, draws)
    if s.aniso > 0:
        exponent = where(draws.applied(s.aniso), draws.normal(s.aniso_std))
        yield _scaling(_exp2(-exponent), _exp2(exponent))
    if s.rotate > 0 and draws.percentile is None:
        yield _random_rotation(s, draws)
    if s.xfrac > 0:
        applied = draws.applied(s.xfrac)
        x, y = (where(applied, draws.normal(s.xfrac_std)) for _ in range(2))
        yield _translation(-x * width, -y * height)


def _random_rotation(s: AugmentConfig, draws: RandomParameters) -> Numbers:
    # One rotation before and one after the anisotropic scale give it a random axis. The probability
    # of each is such that at least one is applied with probability p.
    probability = 1 - math.sqrt(1 - min(draws.p * s.rotate, 1))
    applied = draws.applied_with(probability, s.rotate)
    angle = draws.uniform(-math.pi * s.rotate_max, math.pi * s.rotate_max)
    return _rotation(where(applied, angle))


def _exp2(exponents: Numbers) -> Numbers:
    return by_torch(torch.exp2, exponents)


def _quarter_turns(quarters: Numbers) -> Numbers:
    # Integer cosines and sines, so that zero turns are the exact identity.
    cos = np.array([1.0, 0, -1, 0])[quarters.astype(int)]
    sin = np.array([0.0, 1, 0, -1])[quarters.astype(int)]
    return _turns(cos, sin)


def _rotation(angle: Numbers) -> Numbers:
    return _turns(*cos_sin(angle))


def _turns(cos: Numbers, sin: Numbers) -> Numbers:
    return matrix_of([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _scaling(x: Numbers | float, y: Numbers | float) -> Numbers:
    return matrix_of([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])


def _translation(x: Numbers | float, y: Numbers | float) -> Numbers:
    return matrix_of([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
