"""The augmentation pipe and its color, filter, noise and cutout transforms."""

import functools
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sg3flow import distributed
from sg3flow.device import sent
from sg3flow.errors import ConfigError
from sg3flow.networks.augment_geometry import (
    AUGMENT_PRESETS,
    AugmentConfig,
    apply_geometry,
    geometry_matrix,
    wavelet_lowpass,
)
from sg3flow.networks.augment_random import (
    Numbers,
    RandomParameters,
    Recorder,
    by_torch,
    cos_sin,
    identity,
    is_identity,
    product,
    where,
)

_LUMA = np.array([1.0, 1, 1, 0]) / math.sqrt(3)  # the axis of gray colors
_LUMA_PART = np.outer(_LUMA, _LUMA)
_EYE = np.eye(4)


def color_matrix(strengths: AugmentConfig, draws: RandomParameters) -> Numbers:
    """The color transform of each image on (r, g, b, 1): [N, 4, 4]."""
    s = strengths
    matrix = identity(draws.num_images, 4)
    if s.brightness > 0:
        amount = where(draws.applied(s.brightness), draws.normal(s.brightness_std))
        matrix = product(_shift(amount), matrix)
    if s.contrast > 0:
        gain = _exp2(where(draws.applied(s.contrast), draws.normal(s.contrast_std)))
        matrix = product(_gains(gain), matrix)
    if s.lumaflip > 0:
        flip = where(draws.applied(s.lumaflip), draws.choice(2))
        matrix = product(_EYE - 2 * _LUMA_PART * flip[:, None, None], matrix)
    if s.hue > 0:
        applied = draws.applied(s.hue)
        angle = draws.uniform(-math.pi * s.hue_max, math.pi * s.hue_max)
        matrix = product(_luma_rotation(where(applied, angle)), matrix)
    if s.saturation > 0:
        applied = draws.applied(s.saturation)
        gain = _exp2(where(applied, draws.normal(s.saturation_std)))
        # luma part + (eye - luma part) * gain, written so that a gain of 1 is the exact identity;
        # the last row and column stay those of the identity.
        chroma_part = np.diag([1.0, 1, 1, 0]) - _LUMA_PART
        matrix = product(_EYE + chroma_part * (gain[:, None, None] - 1), matrix)
    return matrix


def apply_color(images: torch.Tensor, matrix: Numbers) -> torch.Tensor:
    """Apply color transforms [N, 4, 4] to ``images`` [N, C, H, W]; gray ones use the mean row."""
    rows = torch.from_numpy(matrix[:, :3])
    if images.shape[1] == 1:
        rows = rows.mean(dim=1, keepdim=True)
        rows = torch.stack([rows[..., :3].sum(dim=-1), rows[..., 3]], dim=-1)  # [N, 1, 2]
    rows = sent(rows.to(images.dtype), images.device)
    flat = images.flatten(2)  # [N, C, H*W]
    return (rows[..., :-1] @ flat + rows[..., -1:]).view_as(images)


def _exp2(exponents: Numbers) -> Numbers:
    return by_torch(torch.exp2, exponents)


def _shift(amount: Numbers) -> Numbers:
    matrix = identity(len(amount), 4)
    matrix[:, :3, 3] = amount[:, None]
    return matrix


def _gains(gain: Numbers) -> Numbers:
    matrix = identity(len(gain), 4)
    matrix[:, [0, 1, 2], [0, 1, 2]] = gain[:, None]
    return matrix


def _luma_rotation(angle: Numbers) -> Numbers:
    """Right-handed rotation about the axis of gray colors (Rodrigues' formula), [N, 4, 4]."""
    n = 1 / math.sqrt(3)
    cross = np.zeros([4, 4])
    cross[:3, :3] = [[0, -n, n], [n, 0, -n], [-n, n, 0]]
    cos, sin = cos_sin(angle)
    turned = _EYE + sin[:, None, None] * cross
    return turned + (1 - cos)[:, None, None] * product(cross, cross)


# The Daubechies wavelet of 2 vanishing moments ("sym2"), low-pass decomposition.
_SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)

# Expected power of natural images in the four bands, for a 1/f spectrum.
_BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


def filter_bank() -> torch.Tensor:
    """Four zero-phase band filters of 43 taps, lowest band first; they sum to the identity."""
    lowpass = torch.tensor(_SYM2, dtype=torch.float64, device="cpu")
    highpass = lowpass * lowpass.new_tensor([1, -1, 1, -1])
    low2, high2 = (_convolve(f[None], f.flip(0))[0] / 2 for f in (lowpass, highpass))
    bank = lowpass.new_tensor([[1], [0], [0], [0]])
    for band in range(1, 4):
        bank = _convolve(_spread_taps(bank), low2)
        start = (bank.shape[1] - len(high2)) // 2
        bank[band, start : start + len(high2)] += high2
    return bank.float()


def apply_filter(
    images: torch.Tensor, strengths: AugmentConfig, draws: RandomParameters, bank: torch.Tensor
) -> torch.Tensor:
    """Amplify or weaken frequency bands; the expected power of an image does not change."""
    if not strengths.imgfilter > 0:
        return images
    gains = _band_gains(strengths, draws)  # [N, 4]
    if torch.equal(gains, torch.ones_like(gains)):
        return images
    num_images, num_channels, height, width = images.shape
    margin = bank.shape[1] // 2
    if min(height, width) <= margin:
        raise ConfigError(f"imgfilter needs images of more than {margin} px, not {width}x{height}")
    taps = sent(gains.to(bank.dtype), images.device) @ bank  # [N, 43]
    taps = taps.to(images.dtype).repeat_interleave(num_channels, dim=0)
    flat = images.reshape(1, num_images * num_channels, height, width)
    flat = F.pad(flat, [margin] * 4, mode="reflect")
    flat = F.conv2d(flat, taps[:, None, None, :], groups=len(taps))
    flat = F.conv2d(flat, taps[:, None, :, None], groups=len(taps))
    return flat.view_as(images)


def apply_noise(
    images: torch.Tensor, strengths: AugmentConfig, draws: RandomParameters
) -> torch.Tensor:
    """Add white noise with a random standard deviation."""
    if not strengths.noise > 0:
        return images
    applied = draws.applied(strengths.noise)
    sigma = where(applied, draws.half_normal(strengths.noise_std))
    noise = distributed.randn(images.shape, device=images.device).to(images.dtype)
    return images + noise * _to_images(sigma, images)


def cut_out(
    images: torch.Tensor, strengths: AugmentConfig, draws: RandomParameters
) -> torch.Tensor:
    """Set a box of ``cutout_size`` image widths around a random point to 0."""
    if not strengths.cutout > 0:
        return images
    size = where(draws.applied(strengths.cutout), strengths.cutout_size)
    center_x, center_y = draws.uniform(), draws.uniform()
    height, width = images.shape[2:]
    x = (torch.arange(width, device=images.device) + 0.5) / width
    y = (torch.arange(height, device=images.device)[:, None] + 0.5) / height
    half = _to_images(size / 2, images)
    keep_x = (x - _to_images(center_x, images)).abs() >= half  # [N, 1, 1, W]
    keep_y = (y - _to_images(center_y, images)).abs() >= half  # [N, 1, H, 1]
    return images * (keep_x | keep_y).to(images.dtype)


def _band_gains(strengths: AugmentConfig, draws: RandomParameters) -> torch.Tensor:
    power = torch.tensor(_BAND_POWER, dtype=torch.float64, device="cpu")
    gains = power.new_ones([draws.num_images, len(power)])
    for band, band_multiplier in enumerate(strengths.imgfilter_bands):
        applied = draws.applied(strengths.imgfilter * band_multiplier)
        factors = torch.ones_like(gains)
        exponents = where(applied, draws.normal(strengths.imgfilter_std))
        factors[:, band] = torch.from_numpy(_exp2(exponents))
        # Only images with a changed band are normalized: the gains of the others stay exactly 1.
        normalized = factors / (power * factors.square()).sum(dim=1, keepdim=True).sqrt()
        gains = torch.where(torch.from_numpy(applied)[:, None], gains * normalized, gains)
    return gains


def _to_images(values: Numbers, images: torch.Tensor) -> torch.Tensor:
    """Values [N] as [N, 1, 1, 1] on the device of the images."""
    return sent(torch.from_numpy(values).to(images.dtype), images.device)[:, None, None, None]


def _convolve(rows: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Full convolution of every row [R, n] with ``taps`` [m]: [R, n + m - 1]."""
    padded = F.pad(rows[:, None], [len(taps) - 1] * 2)
    return F.conv1d(padded, taps.flip(0)[None, None])[:, 0]


def _spread_taps(rows: torch.Tensor) -> torch.Tensor:
    """One zero between every two taps: [R, n] -> [R, 2n - 1]."""
    return torch.stack([rows, torch.zeros_like(rows)], dim=-1).flatten(1)[:, :-1]


__all__ = ["AUGMENT_PRESETS", "AugmentPipe"]


class AugmentPipe(nn.Module):
    """``pipe(images)`` augments a batch; ``pipe.p`` is the strength that ADA adjusts.

    Random values come from torch's global generators. Those of the transforms are drawn on the CPU,
    where ``p`` always is: a seed gives the same transforms on every device, and the size of the
    padding is known without waiting for a device. Which numbers are drawn depends on the
    multipliers and the batch, never on ``p``. Transforms that change no image of a batch are not
    computed.

    Args:
        multipliers: the fields of ``AugmentConfig``.

    Raises:
        ConfigError: a value is negative or not a number.
        TypeError: a name is no field of ``AugmentConfig``.
    """

    p: torch.Tensor
    Hz_geom: torch.Tensor
    Hz_fbank: torch.Tensor

    def __init__(self, **multipliers: Any) -> None:
        super().__init__()
        if "imgfilter_bands" in multipliers:
            multipliers["imgfilter_bands"] = tuple(multipliers["imgfilter_bands"])
        self.strengths = AugmentConfig(**multipliers)
        self.register_buffer("p", torch.ones([], device="cpu"))
        self.register_buffer("Hz_geom", wavelet_lowpass())
        self.register_buffer("Hz_fbank", filter_bank())

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Plain values; ``AugmentPipe(**init_kwargs)`` makes an equal pipe."""
        return asdict(self.strengths) | {"imgfilter_bands": list(self.strengths.imgfilter_bands)}

    def forward(self, images: torch.Tensor, percentile: float | None = None) -> torch.Tensor:
        """Augment ``images`` [N, C, H, W]; twice differentiable with respect to them.

        Args:
            images: float32, 1 or 3 channels, in [-1, 1].
            percentile: fix every random value at this quantile and apply every transform whose
                multiplier is not 0 (see ``RandomParameters``); None: random values.
        """
        num_images, num_channels, height, width = images.shape
        if num_channels not in (1, 3):
            raise ConfigError(f"augmentation needs images of 1 or 3 channels, not {num_channels}")
        draws = RandomParameters(num_images, float(self.p), percentile, first_draws(self.strengths))
        matrix = geometry_matrix(self.strengths, draws, height, width)
        if not is_identity(matrix):
            images = apply_geometry(images, matrix, self.Hz_geom)
        matrix = color_matrix(self.strengths, draws)
        if not is_identity(matrix):
            images = apply_color(images, matrix)
        images = apply_filter(images, self.strengths, draws, self.Hz_fbank)
        images = apply_noise(images, self.strengths, draws)
        return cut_out(images, self.strengths, draws)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "AugmentPipe":
        p = self.p
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.p = p
        return self


@functools.cache
def first_draws(strengths: AugmentConfig) -> str:
    """The kinds of the random numbers of both matrices, as in ``Recorder``."""
    recorder = Recorder()
    geometry_matrix(strengths, recorder, 1, 1)
    color_matrix(strengths, recorder)
    return recorder.kinds
