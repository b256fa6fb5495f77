"""Augmentation settings, their random parameters, and the geometric transforms."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.nn import functional as F

from sg3flow import distributed
from sg3flow.device import sent
from sg3flow.errors import ConfigError
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


class RandomParameters:
    """Random values of a batch: one per image, shape [N], float64 on the CPU.

    A percentile q replaces the random values by fixed ones, for tests and demonstrations: a uniform
    value by its q-quantile, a normal one by ``erfinv(2q - 1)`` (without the sqrt 2). Then every
    transform whose multiplier is not 0 is applied.

    Args:
        num_images: N.
        p: strength of the augmentation; values above 1 count as 1.
        percentile: q in [0, 1]; None: random values.
    """

    def __init__(self, num_images: int, p: float, percentile: float | None) -> None:
        self.num_images = num_images
        self.p = p
        self.percentile = percentile

    def applied(self, multiplier: float) -> torch.Tensor:
        """Whether a transform with this multiplier is applied: bool [N]."""
        return self.applied_with(min(self.p * multiplier, 1.0), multiplier)

    def applied_with(self, probability: float, multiplier: float) -> torch.Tensor:
        """As ``applied``, with a probability other than ``p * multiplier``."""
        if self.percentile is not None:
            return torch.full([self.num_images], multiplier > 0, device="cpu")
        return self._uniform() < probability

    def uniform(self, low: float = 0, high: float = 1) -> torch.Tensor:
        """U(low, high)."""
        return low + (high - low) * self._uniform()

    def choice(self, count: int) -> torch.Tensor:
        """A whole number from 0 to count - 1, as a float."""
        return (self._uniform() * count).floor().clamp(max=count - 1)

    def normal(self, std: float) -> torch.Tensor:
        """N(0, std^2)."""
        if self.percentile is None:
            return distributed.randn([self.num_images]).double() * std
        return torch.erfinv(self._uniform() * 2 - 1) * std

    def half_normal(self, std: float) -> torch.Tensor:
        """|N(0, std^2)|."""
        if self.percentile is None:
            return self.normal(std).abs()
        return torch.erfinv(self._uniform()) * std

    def _uniform(self) -> torch.Tensor:
        if self.percentile is None:
            return distributed.rand([self.num_images]).double()
        return torch.full([self.num_images], self.percentile, dtype=torch.float64, device="cpu")


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
) -> torch.Tensor:
    """The inverse affine map of each image, [N, 3, 3], float64 on the CPU."""
    matrix = torch.eye(3, dtype=torch.float64, device="cpu").repeat(draws.num_images, 1, 1)
    for factor in (
        *_blits(strengths, draws, height, width),
        *_general_maps(strengths, draws, height, width),
    ):
        matrix = matrix @ factor
    return matrix


def apply_geometry(
    images: torch.Tensor, matrix: torch.Tensor, lowpass: torch.Tensor
) -> torch.Tensor:
    """Apply the affine maps ``matrix`` [N, 3, 3] (float64, CPU) to ``images`` [N, C, H, W].

    (1) Pad by reflection as far as needed; (2) double the resolution with an orthogonal wavelet;
    (3) sample bilinearly; (4) halve the resolution with the same wavelet. The identity map returns
    the images exactly.
    """
    num_images, num_channels, height, width = images.shape
    left, top, right, bottom = _margins(matrix, height, width)
    images = F.pad(images, [left, right, top, bottom], mode="reflect")
    matrix = _translation((left - right) / 2, (top - bottom) / 2) @ matrix
    images = upsample2d(images, lowpass, up=2)
    matrix = _scaling(2, 2) @ matrix @ _scaling(0.5, 0.5)
    matrix = _translation(-0.5, -0.5) @ matrix @ _translation(0.5, 0.5)
    out_height, out_width = 2 * (height + _MARGIN), 2 * (width + _MARGIN)
    matrix = (
        _scaling(2 / images.shape[3], 2 / images.shape[2])
        @ matrix
        @ _scaling(out_width / 2, out_height / 2)
    )
    theta = sent(matrix[:, :2].to(images.dtype), images.device)
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


def _margins(matrix: torch.Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels that the maps need beyond each edge: (left, top, right, bottom)."""
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = matrix.new_tensor([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]])
    mapped = (matrix @ corners.T)[:, :2]  # [N, (x, y), corner]
    low, high = (-mapped).amax(dim=(0, 2)), mapped.amax(dim=(0, 2))
    reach = torch.cat([low, high]) + _MARGIN - matrix.new_tensor([x, y, x, y])
    limit = matrix.new_tensor([width - 1, height - 1, width - 1, height - 1])
    left, top, right, bottom = torch.minimum(reach.clamp(min=0), limit).ceil().int().tolist()
    return left, top, right, bottom


def _blits(
    s: AugmentConfig, draws: RandomParameters, height: int, width: int
) -> Iterator[torch.Tensor]:
    """Flips, quarter turns and whole-pixel shifts."""
    if s.xflip > 0:
        flip = _where(draws.applied(s.xflip), draws.choice(2))
        yield _scaling(1 - 2 * flip, 1)
    if s.rotate90 > 0:
        yield _quarter_turns(_where(draws.applied(s.rotate90), draws.choice(4)))
    if s.xint > 0:
        applied = draws.applied(s.xint)
        x, y = (draws.uniform(-s.xint_max, s.xint_max) for _ in range(2))
        x, y = (x * width).round(), (y * height).round()
        yield _translation(-_where(applied, x), -_where(applied, y))


def _general_maps(
    s: AugmentConfig, draws: RandomParameters, height: int, width: int
) -> Iterator[torch.Tensor]:
    """Scales, rotations and fractional shifts."""
    if s.scale > 0:
        inverse = torch.exp2(-_where(draws.applied(s.scale), draws.normal(s.scale_std)))
        yield _scaling(inverse, inverse)
    if s.rotate > 0:
        yield _random_rotation(s, draws)
    if s.aniso > 0:
        exponent = _where(draws.applied(s.aniso), draws.normal(s.aniso_std))
        yield _scaling(torch.exp2(-exponent), torch.exp2(exponent))
    if s.rotate > 0 and draws.percentile is None:
        yield _random_rotation(s, draws)
    if s.xfrac > 0:
        applied = draws.applied(s.xfrac)
        x, y = (_where(applied, draws.normal(s.xfrac_std)) for _ in range(2))
        yield _translation(-x * width, -y * height)


def _random_rotation(s: AugmentConfig, draws: RandomParameters) -> torch.Tensor:
    # One rotation before and one after the anisotropic scale give it a random axis. The probability
    # of each is such that at least one is applied with probability p.
    probability = 1 - math.sqrt(1 - min(draws.p * s.rotate, 1))
    applied = draws.applied_with(probability, s.rotate)
    angle = draws.uniform(-math.pi * s.rotate_max, math.pi * s.rotate_max)
    return _rotation(_where(applied, angle))


def _where(applied: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.where(applied, value, 0.0)


def _quarter_turns(quarters: torch.Tensor) -> torch.Tensor:
    # Integer cosines and sines, so that zero turns are the exact identity.
    cos = quarters.new_tensor([1, 0, -1, 0])[quarters.long()]
    sin = quarters.new_tensor([0, 1, 0, -1])[quarters.long()]
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _rotation(angle: torch.Tensor) -> torch.Tensor:
    return _matrix([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]])


def _scaling(x: torch.Tensor | float, y: torch.Tensor | float) -> torch.Tensor:
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]])


def _translation(x: torch.Tensor | float, y: torch.Tensor | float) -> torch.Tensor:
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]])


def _matrix(rows: list[list[Any]]) -> torch.Tensor:
    """[3, 3] from numbers, or [N, 3, 3] where some are tensors [N]."""
    values = [torch.as_tensor(v, dtype=torch.float64, device="cpu") for row in rows for v in row]
    shape = max((value.shape for value in values), key=len)
    return torch.stack([value.expand(shape) for value in values], dim=-1).reshape(*shape, 3, 3)
