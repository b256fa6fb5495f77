import math
from itertools import islice

import numpy as np
import pytest
import torch

from sg3flow.errors import MetricError
from sg3flow.metrics import eqr, eqt, pseudo, psnr, rot
from sg3flow.metrics.equivariance import equivariance, motion_errors, random_motions

SIZE = 32


class WaveSynthesis(torch.nn.Module):
    """Plane waves on a grid that moves: equivariant by construction."""

    def __init__(self, noise, fixed):
        super().__init__()
        self.noise, self.fixed = noise, fixed
        self.input = torch.nn.Module()
        self.input.register_buffer("transform", torch.eye(3))
        self.drawn = []  # the transforms of all calls

    def forward(self, ws, noise_mode, force_fp32):
        assert noise_mode == "const" and force_fp32
        self.drawn.append(self.input.transform.clone())
        centers = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        place = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)
        if not self.fixed:
            place = place @ self.input.transform.T
        img = torch.sin(ws[:, :3] @ place.T * 6).view(-1, 1, SIZE, SIZE)
        noise = torch.randn(img.shape, generator=torch.Generator().manual_seed(len(self.drawn)))
        return img + self.noise * noise


class Waves(torch.nn.Module):
    def __init__(self, noise=0.0, fixed=False):
        super().__init__()
        self.synthesis = WaveSynthesis(noise, fixed)

    def mapping(self, z, c):
        return z


def inputs(count=8, batch=4):
    z = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return [(part, part[:, :0]) for part in z.split(batch)]


def test_psnr_in_closed_form():
    # An error of 0.02 everywhere, of a range of 2.
    assert psnr(0.02**2 * 7, 7) == pytest.approx(40)
    assert psnr(0.0, 7) == pytest.approx(10 * math.log10(4) + 46 * 10 * math.log10(2))


def test_the_error_in_decibels_is_that_of_the_mean():
    errors = np.array([[1.0, 10], [2, 10], [3, 10], [6, 10]])
    found = equivariance(errors)
    assert found.value == pytest.approx(10 * math.log10(4 / 0.3))
    # d(10 log10 m) = 10 / ln 10 dm / m, for a mean of 0.3 with a standard error of 0.108
    error = errors[:, 0].std(ddof=1) / 10 / 2
    assert found.standard_error == pytest.approx(10 / math.log(10) * error / 0.3)


def test_motions_are_uniform_in_their_range():
    for kind, reach, size in (("eqt_int", 1 / 8, 2), ("eqt_frac", 1 / 8, 2), ("eqr", math.pi, 1)):
        motions = np.array(list(islice(random_motions(kind, 0), 400)))
        assert motions.shape == (400, size)
        assert abs(motions).max() == pytest.approx(reach, rel=0.02)
        assert motions.std(axis=0) == pytest.approx(np.full(size, reach / math.sqrt(3)), rel=0.1)


def test_only_samples_in_view_count():
    motions = iter([(0.125, -0.0625), (0.03125, 0.0)])
    errors = motion_errors(Waves(noise=0.1), "eqt_int", inputs(8), motions)
    samples = 4 * np.array([28 * 30, 31 * 32])  # four images in a batch
    assert errors[:, 1].tolist() == samples.tolist()
    assert errors[:, 0] / samples == pytest.approx([2 * 0.1**2] * 2, rel=0.1)


def test_rotations_count_what_both_sides_define():
    """The image that is turned, and the one that is only filtered."""
    (found,) = motion_errors(Waves(), "eqr", inputs(4), iter([(math.pi / 4,)]))
    images = torch.zeros(1, 1, SIZE, SIZE)
    turned, filtered = (f(images, math.pi / 4)[1].sum() for f in (rot, pseudo))
    both = (rot(images, math.pi / 4)[1] * pseudo(images, math.pi / 4)[1]).sum()
    assert found[1] == 4 * float(both) and both < min(turned, filtered)


def test_an_equivariant_generator_scores_high():
    G = Waves()
    assert eqt(G, inputs(), fractional=False, seed=0) > 100
    assert eqt(G, inputs(), fractional=True, seed=0) > 40
    assert eqr(G, inputs(), seed=0) > 40


def test_a_generator_that_stays_scores_low():
    G = Waves(fixed=True)
    assert eqt(G, inputs(), fractional=False, seed=0) < 25
    assert eqr(G, inputs(), seed=0) < 20


def test_known_noise_gives_its_ratio():
    # Two pictures with independent noise of 0.01 differ by a variance of 2e-4.
    found = eqt(Waves(noise=0.01), inputs(64), fractional=False, seed=0)
    assert found == pytest.approx(10 * math.log10(4 / 2e-4), abs=0.05)


def test_the_motion_is_inverted_rounded_and_undone():
    G = Waves()
    G.synthesis.input.transform.copy_(torch.tensor([[1.0, 0, 0.25], [0, 1, 0], [0, 0, 1]]))
    before = G.synthesis.input.transform.clone()
    eqt(G, inputs(), fractional=False, seed=1)
    assert torch.equal(G.synthesis.input.transform, before)
    assert torch.equal(G.synthesis.drawn[0], torch.eye(3)) and torch.equal(
        G.synthesis.drawn[2], torch.eye(3)
    )
    pixels = G.synthesis.drawn[1][:2, 2] * SIZE
    assert torch.allclose(pixels, pixels.round(), atol=1e-5) and pixels.abs().max() <= SIZE / 8
    assert not torch.equal(G.synthesis.drawn[1], G.synthesis.drawn[3])


def test_the_seed_decides():
    first, again, other = (eqr(Waves(), inputs(), seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_refuses_a_generator_without_transform_or_with_bad_values(tiny_generator):
    with pytest.raises(MetricError, match="StyleGAN2Generator has no input transform"):
        eqr(tiny_generator(kind="stylegan2"), inputs(), seed=0)
    with pytest.raises(MetricError, match="not finite"):
        eqt(Waves(noise=math.nan), inputs(), fractional=True, seed=0)
    with pytest.raises(MetricError, match="no pixel"):
        eqt(Waves(), [], fractional=True, seed=0)


def test_a_real_generator_moves_its_content(tiny_generator):
    G = tiny_generator(seed=1)
    z = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    batches = [(part, part[:, :0]) for part in z.split(4)]
    assert eqt(G, batches, fractional=False, seed=0) > 30
    assert eqt(G, batches, fractional=True, seed=0) > 30
