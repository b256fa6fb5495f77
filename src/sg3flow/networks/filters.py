"""Low-pass filter design of StyleGAN3 (Karras et al. 2021, App. C)."""

import numpy as np
import scipy.signal
import scipy.special
import torch
from numpy.typing import NDArray


def lowpass_filter(
    taps: int, cutoff: float, width: float, sampling_rate: float, radial: bool = False
) -> torch.Tensor | None:
    """A Kaiser-windowed low-pass filter, its sum 1.

    Args:
        taps: length; 1 is the identity.
        cutoff: cutoff frequency, in the unit of `sampling_rate`.
        width: full width of the transition band around it.
        radial: a rotationally symmetric jinc in place of a separable sinc.

    Returns:
        float32 [taps], or [taps, taps] where radial; None for the identity.
    """
    if taps == 1:
        return None
    if radial:
        return torch.as_tensor(_radial(taps, cutoff, width, sampling_rate), dtype=torch.float32)
    f = scipy.signal.firwin(numtaps=taps, cutoff=cutoff, width=width, fs=sampling_rate)
    return torch.as_tensor(f, dtype=torch.float32)


def _radial(taps: int, cutoff: float, width: float, sampling_rate: float) -> NDArray[np.float64]:
    x = (np.arange(taps) - (taps - 1) / 2) / sampling_rate
    r = np.hypot(*np.meshgrid(x, x))
    # J1(2 pi f r) / (pi r) tends to f as r goes to 0, where an odd number of taps samples it
    centre = r == 0
    safe = np.where(centre, 1, r)
    f = np.where(centre, cutoff, scipy.special.j1(2 * np.pi * cutoff * safe) / (np.pi * safe))
    beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, width / (sampling_rate / 2)))
    window = np.kaiser(taps, beta)
    f = np.asarray(f * np.outer(window, window), dtype=np.float64)
    return np.asarray(f / f.sum())
