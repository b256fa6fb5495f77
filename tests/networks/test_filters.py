import numpy as np
import pytest
import scipy.integrate
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.networks.layer_schedule import lowpass_filter

GOLDEN = {
    "t_up2": (12, 2, 2 * (2**2.1 - 2), 32, False),
    "t_up4": (24, 4, 8, 64, False),
    "r_down2": (12, 2, 12, 32, True),
    "crit_down2": (12, 128, 2 * (128 * 2**0.3 - 128), 512, False),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_matches_golden_bit_for_bit(golden, name):
    with np.load(golden / "filters.npz") as arrays:
        assert np.array_equal(lowpass_filter(*GOLDEN[name]).numpy(), arrays[name])


def test_separable_is_a_kaiser_windowed_sinc():
    taps, cutoff, width, fs = 12, 3.0, 7.0, 32.0
    t = (np.arange(taps) - (taps - 1) / 2) / fs
    atten = scipy.signal.kaiser_atten(taps, width / (fs / 2))
    expected = np.sinc(2 * cutoff * t) * np.kaiser(taps, scipy.signal.kaiser_beta(atten))
    found = lowpass_filter(taps, cutoff, width, fs).numpy()
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-7)


@given(
    taps=st.integers(2, 64),
    cutoff=st.floats(0.01, 0.99),
    width=st.floats(0.01, 2),
    rate=st.sampled_from([16.0, 64.0, 2048.0, 53.0]),
)
def test_separable_has_the_bits_of_firwin(taps, cutoff, width, rate):
    arguments = {"cutoff": cutoff * rate / 2, "width": width * rate / 2}
    expected = scipy.signal.firwin(taps, fs=rate, **arguments).astype(np.float32)
    found = lowpass_filter(taps, sampling_rate=rate, **arguments).numpy()
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("taps", [12, 13])
def test_radial_is_a_kaiser_windowed_jinc(taps):
    cutoff, width, fs = 3.0, 7.0, 32.0
    t = (np.arange(taps) - (taps - 1) / 2) / fs

    def disc(x, y):
        """The inverse Fourier transform of a disc of radius `cutoff`, by quadrature."""
        r = np.hypot(x, y)
        inner = lambda u: 2 * np.sqrt(cutoff**2 - u**2) * np.cos(2 * np.pi * r * u)  # noqa: E731
        return scipy.integrate.quad(inner, -cutoff, cutoff)[0]

    ideal = np.array([[disc(x, y) for x in t] for y in t])
    atten = scipy.signal.kaiser_atten(taps, width / (fs / 2))
    window = np.kaiser(taps, scipy.signal.kaiser_beta(atten))
    expected = ideal * np.outer(window, window)
    found = lowpass_filter(taps, cutoff, width, fs, radial=True).numpy()
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-7)


def test_one_tap_is_the_identity_and_all_sum_to_one():
    assert lowpass_filter(1, 2, 4, 16) is None
    for arguments in GOLDEN.values():
        assert float(lowpass_filter(*arguments).double().sum()) == pytest.approx(1, abs=1e-6)
        assert lowpass_filter(*arguments).dtype == torch.float32
