import math

import numpy as np
import pytest
import torch

from sg3flow.metrics import frac_shift, int_shift, pseudo, rot
from sg3flow.metrics.equivariance import lowpass_for

CASES = {
    "int_shift": ("int_mask", lambda x: int_shift(x, 0.125, -0.0625), 0),
    "frac_shift": ("frac_mask", lambda x: frac_shift(x, 0.07, -0.11), 1e-6),
    "rot": ("rot_mask", lambda x: rot(x, 0.7), 1e-6),
    "pseudo": ("pseudo_mask", lambda x: pseudo(x, 0.7), 1e-6),
}


@pytest.mark.parametrize("name", CASES)
def test_golden_operators(golden, name):
    mask_name, operator, tolerance = CASES[name]
    arrays = np.load(golden / "metrics.npz")
    moved, mask = operator(torch.from_numpy(arrays["x"]))
    expected = torch.from_numpy(arrays[name])
    assert (moved - expected).abs().max() <= tolerance * expected.abs().max()
    assert torch.equal(mask, torch.from_numpy(arrays[mask_name]))


def wave(size, tx=0.0, ty=0.0, angle=0.0):
    """A smooth picture moved in closed form, float32 [1, 1, size, size]."""
    centers = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    x, y = x - tx, y - ty
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = cos * x - sin * y, sin * x + cos * y  # the inverse of the motion
    return (torch.sin(15 * x + 1) * torch.cos(11 * y)).float()[None, None]


def largest_error(moved, mask, expected):
    assert mask.mean() > 0.3
    return float(((moved - expected) * mask).abs().max())


def test_content_moves_right_and_down():
    x = torch.zeros(1, 1, 8, 8)
    x[..., 2, 3] = 1
    moved, mask = int_shift(x, 2 / 8, 1 / 8)
    assert moved[..., 3, 5] == 1 and moved.sum() == 1
    assert mask[..., 1:, 2:].all() and mask.sum() == 7 * 6


@pytest.mark.parametrize("shift", [(0.1, -0.07), (-0.031, 0.125), (0.0, 0.0)])
def test_fractional_shift_follows_a_smooth_picture(shift):
    moved, mask = frac_shift(wave(48), *shift)
    assert largest_error(moved, mask, wave(48, *shift)) < 0.02


def test_fractional_shift_by_whole_pixels_is_a_copy():
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    moved, mask = frac_shift(x, 2 / 16, -3 / 16)
    exact, _ = int_shift(x, 2 / 16, -3 / 16)
    assert ((moved - exact) * mask).abs().max() < 1e-6


@pytest.mark.parametrize("shift", [(3.0, 0.0), (0.0, -2.5)])
def test_shift_out_of_view_is_masked_out(shift):
    x = torch.ones(1, 1, 8, 8)
    for operator in (int_shift, frac_shift):
        moved, mask = operator(x, *shift)
        assert mask.sum() == 0 and moved.abs().sum() == 0


@pytest.mark.parametrize("angle", [0.4, -1.2, 3.0])
def test_rotation_follows_a_smooth_picture(angle):
    moved, mask = rot(wave(48), angle)
    assert largest_error(moved, mask, wave(48, angle=angle)) < 0.02


def test_fractional_shifts_keep_a_constant_picture():
    moved, mask = frac_shift(torch.full((1, 1, 16, 16), 3.0), 0.03, -0.07)
    assert torch.allclose(moved[mask == 1], torch.tensor(3.0))


@pytest.mark.parametrize("angle", [0.0, 0.4, -0.4])
def test_pseudo_rotation_has_the_filter_of_the_rotation_back(angle):
    x = torch.zeros(1, 1, 33, 33)
    x[..., 16, 16] = 1
    cos, sin = math.cos(angle), math.sin(angle)
    back = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    filtered, mask = pseudo(x, angle)
    taps = lowpass_for(back, 1).float()
    assert torch.allclose(filtered[0, 0, 11:22, 11:22], taps, atol=1e-6)
    assert mask.sum() == 23**2  # 5 pixels at each edge would need some of outside


def test_pseudo_rotation_passes_a_smooth_picture():
    filtered, mask = pseudo(wave(48), 0.9)
    assert largest_error(filtered, mask, wave(48)) < 0.02


@pytest.mark.parametrize(("up", "size"), [(1, 11), (4, 47)])
def test_every_phase_of_the_filter_keeps_the_mean(up, size):
    taps = lowpass_for(torch.eye(2, dtype=torch.float64), up)
    assert taps.shape == (size, size)
    sums = [taps[i::up, j::up].sum() for i in range(up) for j in range(up)]
    assert torch.stack(sums).numpy() == pytest.approx(1 / up**2)


def test_the_filter_of_a_motion_is_two_sincs_and_two_windows_convolved():
    """Each pair is of the grid and of the turned grid; summed up directly for some taps."""
    angle, line = 0.6, np.arange(-64, 64.0)
    matrix = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    y, x = np.meshgrid(line, line, indexing="ij")

    def sinc(x, y):
        return np.sinc(x) * np.sinc(y)

    def window(x, y):
        near = (abs(x) < 3) & (abs(y) < 3)
        return np.sinc(x / 3) * np.sinc(y / 3) * near

    def convolved(function, at):
        dx, dy = ((at[i] - (x, y)[i] + 64) % 128 - 64 for i in (0, 1))  # a circular convolution
        (a, b), (c, d) = matrix
        return float((function(x, y) * function(a * dx + b * dy, c * dx + d * dy)).sum())

    taps = lowpass_for(torch.tensor(matrix, dtype=torch.float64), 1)
    middle = len(taps) // 2
    for at in ((1, 0), (0, 2), (2, -1), (-3, 1), (4, 4)):
        ideal = convolved(sinc, at) * convolved(window, at)
        center = convolved(sinc, (0, 0)) * convolved(window, (0, 0))
        ratio = float(taps[middle + at[1], middle + at[0]] / taps[middle, middle])
        assert ratio == pytest.approx(ideal / center, rel=1e-6, abs=1e-9)
