"""The layer schedule of StyleGAN3 and its low-pass filters (Karras et al. 2021, App. C)."""

import dataclasses
import math

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from sg3flow.networks.layers import check_channels, check_resolution


def lowpass_filter(
    taps: int, cutoff: float, width: float, sampling_rate: float, radial: bool = False
) -> torch.Tensor | None:
    """A Kaiser-windowed low-pass filter with sum 1.

    Args:
        taps: length; 1 is the identity.
        cutoff: cutoff frequency, in the unit of `sampling_rate`.
        width: full width of the transition band around it.
        radial: a rotationally symmetric jinc instead of a separable sinc.

    Returns:
        float32 [taps], or [taps, taps] if radial; None for the identity.
    """
    if taps == 1:
        return None
    if radial:
        return torch.as_tensor(_radial(taps, cutoff, width, sampling_rate), dtype=torch.float32)
    return torch.as_tensor(_windowed_sinc(taps, cutoff, width, sampling_rate), dtype=torch.float32)


def _windowed_sinc(
    taps: int, cutoff: float, width: float, sampling_rate: float
) -> NDArray[np.float64]:
    """The bits of ``scipy.signal.firwin``, without the half second that its import takes."""
    x = np.arange(taps) - 0.5 * (taps - 1)
    relative = cutoff / (sampling_rate / 2)
    assert 0 < relative < 1, (cutoff, sampling_rate)
    beta = _kaiser_beta(taps, width, sampling_rate)
    window = scipy.special.i0(beta * np.sqrt(1 - (x / x[-1]) ** 2)) / scipy.special.i0(beta)
    f = relative * np.sinc(relative * x) * window
    return np.asarray(f / f.sum(), dtype=np.float64)


def _kaiser_beta(taps: int, width: float, sampling_rate: float) -> float:
    """Shape of the Kaiser window for a transition ``width`` (Kaiser 1974)."""
    attenuation = 2.285 * (taps - 1) * np.pi * (width / (sampling_rate / 2)) + 7.95  # in dB
    if attenuation > 50:
        return float(0.1102 * (attenuation - 8.7))
    excess = max(attenuation - 21, 0.0)
    return float(0.5842 * excess**0.4 + 0.07886 * excess)


def _radial(taps: int, cutoff: float, width: float, sampling_rate: float) -> NDArray[np.float64]:
    x = (np.arange(taps) - (taps - 1) / 2) / sampling_rate
    r = np.hypot(*np.meshgrid(x, x))
    # J1(2 pi f r) / (pi r) tends to f as r goes to 0; an odd number of taps has a sample there.
    center = r == 0
    safe = np.where(center, 1, r)
    f = np.where(center, cutoff, scipy.special.j1(2 * np.pi * cutoff * safe) / (np.pi * safe))
    window = np.kaiser(taps, _kaiser_beta(taps, width, sampling_rate))
    f = np.asarray(f * np.outer(window, window), dtype=np.float64)
    return np.asarray(f / f.sum())


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One synthesis layer; `padding` is (x0, x1, y0, y1) for filtered_lrelu."""

    name: str
    is_torgb: bool
    is_critically_sampled: bool
    use_fp16: bool
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    in_sampling_rate: float
    out_sampling_rate: float
    tmp_sampling_rate: float
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    up_factor: int
    up_taps: int
    down_factor: int
    down_taps: int
    down_radial: bool
    padding: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The Fourier-feature input and the layers after it; the last layer is ToRGB."""

    input_channels: int
    input_size: int
    input_sampling_rate: float
    input_bandwidth: float
    layers: tuple[LayerPlan, ...]

    @property
    def num_ws(self) -> int:
        """One w for the input and one for each layer."""
        return len(self.layers) + 1


@dataclasses.dataclass(frozen=True)
class ScheduleArguments:
    """The arguments of the generator that decide the schedule."""

    img_resolution: int
    img_channels: int
    channel_base: int = 32768
    channel_max: int = 512
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    num_fp16_res: int = 4
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False


@dataclasses.dataclass(frozen=True)
class _Stage:
    """The signal between two layers."""

    cutoff: float
    half_width: float
    sampling_rate: float
    size: int
    channels: int


def plan_layers(a: ScheduleArguments) -> Schedule:
    """Computes the whole schedule.

    Raises:
        ValueError: the resolution is not a power of two of at least 16, or leaves no transition
            band, a layer would have no channels, or the layer counts do not fit.
    """
    check_resolution("StyleGAN3", a.img_resolution, smallest=16)
    if not 0 < a.num_critical < a.num_layers:
        raise ValueError(
            f"StyleGAN3: num_critical ({a.num_critical}) must be from 1 to num_layers - 1 "
            f"({a.num_layers - 1})"
        )
    stages = [_stage(a, i) for i in range(a.num_layers + 1)]
    first = stages[0]
    if not 0 < first.cutoff < first.sampling_rate / 2 or min(s.half_width for s in stages) <= 0:
        raise ValueError(
            f"StyleGAN3: at {a.img_resolution} px no transition band is left (first_cutoff "
            f"{a.first_cutoff}, first_stopband {a.first_stopband}); raise img_resolution or "
            "lower first_cutoff"
        )
    check_channels("StyleGAN3", min(s.channels for s in stages), a.img_resolution)
    layers = [
        _layer(a, i, stages[max(i - 1, 0)], stages[i], channels_in=stages[max(i - 1, 0)].channels)
        for i in range(a.num_layers + 1)
    ]
    return Schedule(first.channels, first.size, first.sampling_rate, first.cutoff, tuple(layers))


def _stage(a: ScheduleArguments, i: int) -> _Stage:
    last_cutoff = a.img_resolution / 2
    exponent = min(i / (a.num_layers - a.num_critical), 1)
    cutoff = a.first_cutoff * (last_cutoff / a.first_cutoff) ** exponent
    last_stopband = last_cutoff * a.last_stopband_rel
    stopband = a.first_stopband * (last_stopband / a.first_stopband) ** exponent
    sampling_rate = 2.0 ** math.ceil(math.log2(min(stopband * 2, a.img_resolution)))
    is_last = i == a.num_layers
    return _Stage(
        cutoff=cutoff,
        half_width=max(stopband, sampling_rate / 2) - cutoff,
        sampling_rate=sampling_rate,
        size=a.img_resolution if i >= a.num_layers - 1 else int(sampling_rate) + 2 * a.margin_size,
        channels=a.img_channels
        if is_last
        else round(min(a.channel_base / 2 / cutoff, a.channel_max)),
    )


def _layer(
    a: ScheduleArguments, i: int, before: _Stage, after: _Stage, channels_in: int
) -> LayerPlan:
    is_torgb = i == a.num_layers
    is_critical = i >= a.num_layers - a.num_critical
    tmp_rate = max(before.sampling_rate, after.sampling_rate)
    tmp_rate *= 1 if is_torgb else a.lrelu_upsampling
    up, down = round(tmp_rate / before.sampling_rate), round(tmp_rate / after.sampling_rate)
    up_taps = a.filter_size * up if up > 1 and not is_torgb else 1
    down_taps = a.filter_size * down if down > 1 and not is_torgb else 1
    kernel = 1 if is_torgb else a.conv_kernel
    total = (after.size - 1) * down + 1 - (before.size + kernel - 1) * up + up_taps + down_taps - 2
    low = (total + up) // 2
    return LayerPlan(
        name=f"L{i}_{after.size}_{after.channels}",
        is_torgb=is_torgb,
        is_critically_sampled=is_critical,
        use_fp16=after.sampling_rate * 2**a.num_fp16_res > a.img_resolution,
        in_channels=channels_in,
        out_channels=after.channels,
        in_size=before.size,
        out_size=after.size,
        in_sampling_rate=before.sampling_rate,
        out_sampling_rate=after.sampling_rate,
        tmp_sampling_rate=tmp_rate,
        in_cutoff=before.cutoff,
        out_cutoff=after.cutoff,
        in_half_width=before.half_width,
        out_half_width=after.half_width,
        up_factor=up,
        up_taps=up_taps,
        down_factor=down,
        down_taps=down_taps,
        down_radial=a.use_radial_filters and not is_critical,
        padding=(low, total - low, low, total - low),
    )
