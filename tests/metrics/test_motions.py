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


def test_pseudo_rotation_passes_a_smooth_picture():
    filtered, mask = pseudo(wave(48), 0.9)
    assert largest_error(filtered, mask, wave(48)) < 0.02


@pytest.mark.parametrize(("up", "size"), [(1, 11), (4, 47)])
def test_every_phase_of_the_filter_keeps_the_mean(up, size):
    taps = lowpass_for(torch.eye(2, dtype=torch.float64), up)
    assert taps.shape == (size, size)
    sums = [taps[i::up, j::up].sum() for i in range(up) for j in range(up)]
    assert torch.stack(sums).numpy() == pytest.approx(1 / up**2)
