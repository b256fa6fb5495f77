"""Geometric augmentations: one affine map a picture, and the resampling that carries it out.

Matrices act on (x right, y down) about the picture's centre, in pixels, and map points of the
output to points of the input (G_inv of Karras et al. 2020, appendix B.2).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from sg3flow.devices import sent
from sg3flow.ops import downsample2d, setup_filter, upsample2d
from sg3flow.training.augment_draws import Draws
from sg3flow.training.augment_strengths import Strengths

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
_MARGIN = len(_SYM6) // 2  # pixels that both filters together reach beyond a point


def wavelet_lowpass() -> torch.Tensor:
    """The 12 taps that resampling filters with, normalised to sum 1."""
    return setup_filter(_SYM6)


def geometry_matrix(strengths: Strengths, draws: Draws, height: int, width: int) -> torch.Tensor:
    """The inverse affine map of every picture, [N, 3, 3], float64 on the CPU."""
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
    """Carry out the affine maps ``matrix`` [N, 3, 3] (float64, CPU) on ``images`` [N, C, H, W].

    Reflects the picture beyond its edges as far as needed, doubles the resolution with an
    orthogonal wavelet, samples bilinearly there, and halves it with the same wavelet: the identity
    map gives the picture back exactly.
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

    torch's own has only the first, and R1 needs two. The grid gets none.
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
        )  # only its shape matters: no gradient by the grid is asked
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
    """How far beyond (left, top, right, bottom) the maps look, in whole pixels."""
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = matrix.new_tensor([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]])
    mapped = (matrix @ corners.T)[:, :2]  # [N, (x, y), corner]
    low, high = (-mapped).amax(dim=(0, 2)), mapped.amax(dim=(0, 2))
    reach = torch.cat([low, high]) + _MARGIN - matrix.new_tensor([x, y, x, y])
    limit = matrix.new_tensor([width - 1, height - 1, width - 1, height - 1])
    left, top, right, bottom = torch.minimum(reach.clamp(min=0), limit).ceil().int().tolist()
    return left, top, right, bottom


def _blits(s: Strengths, draws: Draws, height: int, width: int) -> Iterator[torch.Tensor]:
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


def _general_maps(s: Strengths, draws: Draws, height: int, width: int) -> Iterator[torch.Tensor]:
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


def _random_rotation(s: Strengths, draws: Draws) -> torch.Tensor:
    # One before and one after the anisotropic scale make its axis random; each has the probability
    # with which the two together are applied with probability p.
    probability = 1 - math.sqrt(1 - min(draws.p * s.rotate, 1))
    applied = draws.applied_with(probability, s.rotate)
    angle = draws.uniform(-math.pi * s.rotate_max, math.pi * s.rotate_max)
    return _rotation(_where(applied, angle))


def _where(applied: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.where(applied, value, 0.0)


def _quarter_turns(quarters: torch.Tensor) -> torch.Tensor:
    # Whole cosines and sines, so that no turn and four turns are the exact identity.
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
