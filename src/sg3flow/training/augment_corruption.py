"""Augmentations that lose information: frequency-band gains, noise, cutout. Off by default."""

import torch
from torch.nn import functional as F

from sg3flow import processes
from sg3flow.devices import sent
from sg3flow.errors import ConfigError
from sg3flow.training.augment_draws import Draws
from sg3flow.training.augment_strengths import Strengths

# The Daubechies wavelet of 2 vanishing moments ("sym2"), low-pass decomposition.
_SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)

# Expected power of natural pictures in the four bands, by a 1/f spectrum.
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
    images: torch.Tensor, strengths: Strengths, draws: Draws, bank: torch.Tensor
) -> torch.Tensor:
    """Amplify or weaken frequency bands; the expected power of a picture stays the same."""
    if not strengths.imgfilter > 0:
        return images
    gains = _band_gains(strengths, draws)  # [N, 4]
    if torch.equal(gains, torch.ones_like(gains)):
        return images
    num_images, num_channels, height, width = images.shape
    margin = bank.shape[1] // 2
    if min(height, width) <= margin:
        raise ConfigError(f"imgfilter needs pictures above {margin} px, not {width}x{height}")
    taps = sent(gains.to(bank.dtype), images.device) @ bank  # [N, 43]
    taps = taps.to(images.dtype).repeat_interleave(num_channels, dim=0)
    flat = images.reshape(1, num_images * num_channels, height, width)
    flat = F.pad(flat, [margin] * 4, mode="reflect")
    flat = F.conv2d(flat, taps[:, None, None, :], groups=len(taps))
    flat = F.conv2d(flat, taps[:, None, :, None], groups=len(taps))
    return flat.view_as(images)


def apply_noise(images: torch.Tensor, strengths: Strengths, draws: Draws) -> torch.Tensor:
    """Add white noise of a random deviation."""
    if not strengths.noise > 0:
        return images
    applied = draws.applied(strengths.noise)
    sigma = torch.where(applied, draws.half_normal(strengths.noise_std), 0.0)
    noise = processes.randn(images.shape, device=images.device).to(images.dtype)
    return images + noise * _to_images(sigma, images)


def cut_out(images: torch.Tensor, strengths: Strengths, draws: Draws) -> torch.Tensor:
    """Set a box of ``cutout_size`` picture widths around a random point to 0."""
    if not strengths.cutout > 0:
        return images
    size = torch.where(draws.applied(strengths.cutout), strengths.cutout_size, 0.0)
    center_x, center_y = draws.uniform(), draws.uniform()
    height, width = images.shape[2:]
    x = (torch.arange(width, device=images.device) + 0.5) / width
    y = (torch.arange(height, device=images.device)[:, None] + 0.5) / height
    half = _to_images(size / 2, images)
    keep_x = (x - _to_images(center_x, images)).abs() >= half  # [N, 1, 1, W]
    keep_y = (y - _to_images(center_y, images)).abs() >= half  # [N, 1, H, 1]
    return images * (keep_x | keep_y).to(images.dtype)


def _band_gains(strengths: Strengths, draws: Draws) -> torch.Tensor:
    power = torch.tensor(_BAND_POWER, dtype=torch.float64, device="cpu")
    gains = power.new_ones([draws.num_images, len(power)])
    for band, band_multiplier in enumerate(strengths.imgfilter_bands):
        applied = draws.applied(strengths.imgfilter * band_multiplier)
        factors = torch.ones_like(gains)
        factors[:, band] = torch.exp2(
            torch.where(applied, draws.normal(strengths.imgfilter_std), 0.0)
        )
        # A batch without any must give exact ones: only the pictures it applies to are normalised.
        normalised = factors / (power * factors.square()).sum(dim=1, keepdim=True).sqrt()
        gains = torch.where(applied[:, None], gains * normalised, gains)
    return gains


def _to_images(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Values [N] as [N, 1, 1, 1] beside the images."""
    return sent(values.to(images.dtype), images.device)[:, None, None, None]


def _convolve(rows: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Full convolution of every row [R, n] with ``taps`` [m]: [R, n + m - 1]."""
    padded = F.pad(rows[:, None], [len(taps) - 1] * 2)
    return F.conv1d(padded, taps.flip(0)[None, None])[:, 0]


def _spread_taps(rows: torch.Tensor) -> torch.Tensor:
    """One zero between every two taps: [R, n] -> [R, 2n - 1]."""
    return torch.stack([rows, torch.zeros_like(rows)], dim=-1).flatten(1)[:, :-1]
