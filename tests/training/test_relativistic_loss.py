"""The relativistic pairing loss by its formulas (Huang et al. 2024)."""

import math

import pytest
import torch
from small_networks import LayeredG, LinearG, RecordingD, Tripled, labeled, micro
from torch import nn

from sg3flow.training.losses import Collector, LossSettings, MicroBatch
from sg3flow.training.relativistic_loss import RelativisticLoss

CPU = torch.device("cpu")


class ConstantD(nn.Module):
    """A logit that no pixel changes; it keeps its logits, with their gradients."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.7))
        self.logits = []

    def forward(self, img, c):
        logits = img.sum([1, 2, 3])[:, None] * 0 + self.bias
        if logits.requires_grad:
            logits.retain_grad()
        self.logits.append(logits)
        return logits


class SlopedD(nn.Module):
    """Logit = sum of slope * pixel, in float64: the gradient wrt the pixels is the slope."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, img, c):
        return (img * self.slope).sum([1, 2, 3])[:, None]


def relativistic(G=None, D=None, augment_pipe=None, gamma=0.0):
    collector = Collector(CPU)
    G, D = G or LinearG(), D or RecordingD()
    return RelativisticLoss(G, D, augment_pipe, LossSettings(gamma), collector, CPU), collector


@pytest.mark.parametrize("phase", ["Gmain", "Dmain"])
def test_a_constant_discriminator_costs_ln_2(phase):
    loss, collector = relativistic(D=ConstantD())
    loss.backward(phase, micro(3), nimg=0, gain=1)
    assert collector.read()[f"Loss/{phase[0]}/loss"].mean == pytest.approx(math.log(2))


def test_a_constant_discriminator_is_pushed_by_a_half():
    loss, _ = relativistic(D=ConstantD())
    loss.backward("Dmain", micro(3), nimg=0, gain=1)
    fakes, reals = loss.D.logits
    # The loss is a mean over three pairs.
    torch.testing.assert_close(reals.grad * 3, torch.full((3, 1), -0.5))
    torch.testing.assert_close(fakes.grad * 3, torch.full((3, 1), 0.5))


def test_only_the_difference_within_a_pair_counts():
    loss, collector = relativistic(gamma=0.0)
    batch = micro(3)
    real = loss.D(batch.real_img, None).detach()
    fake = loss.D(loss.G.synthesis(batch.z[:, None], None, None), None).detach()
    loss.backward("Dmain", batch, nimg=0, gain=1)
    loss.backward("Gmain", batch, nimg=0, gain=1)
    found = collector.read()
    expected = torch.log1p(torch.exp(fake - real)).mean()
    assert found["Loss/D/loss"].mean == pytest.approx(float(expected), rel=1e-6)
    expected = torch.log1p(torch.exp(real - fake)).mean()
    assert found["Loss/G/loss"].mean == pytest.approx(float(expected), rel=1e-6)
    assert loss.take_real_signs().tolist() == [3, float((real - fake).sign().sum())]


def test_a_linear_discriminator_has_equal_penalties():
    """R1 = R2 = |a|^2, wherever they are measured."""
    slope = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(0))
    loss, collector = relativistic(D=SlopedD(slope), gamma=3.0)
    loss.backward("Dreg", micro(), nimg=0, gain=16)
    found, wanted = collector.read(), float(slope.square().sum())
    for name in ("r1", "r2"):
        assert found[f"Loss/{name}_penalty"].mean == pytest.approx(wanted, rel=1e-6)
    assert found["Loss/D/reg"].mean == pytest.approx(3.0 * wanted, rel=1e-6)
    # d/da of gamma/2 (|a|^2 + |a|^2), times the interval
    torch.testing.assert_close(loss.D.slope.grad, 3.0 * 2 * slope * 16)


@pytest.mark.parametrize("phase", ["Gmain", "Dmain"])
def test_gradients_are_those_of_finite_differences(phase):
    random = torch.Generator().manual_seed(1)
    numbers = [
        torch.randn(*size, generator=random, dtype=torch.float64) for size in ((3, 4, 2, 2), (3, 4))
    ]
    empty = torch.zeros(3, 0)
    batch = MicroBatch(numbers[0], empty, numbers[1], empty)
    slope = torch.randn(4, 2, 2, generator=random, dtype=torch.float64)
    module = LinearG().double() if phase == "Gmain" else SlopedD(slope)

    def value(change: float) -> float:
        G = LinearG().double() if phase == "Dmain" else module
        D = SlopedD(slope) if phase == "Gmain" else module
        loss, collector = relativistic(G, D)
        parameter = next(module.parameters())
        with torch.no_grad():
            parameter.view(-1)[0] += change
        parameter.grad = None
        loss.backward(phase, batch, nimg=0, gain=1)
        with torch.no_grad():
            parameter.view(-1)[0] -= change
        return collector.read()[f"Loss/{phase[0]}/loss"].mean

    slopes = (value(1e-5) - value(-1e-5)) / 2e-5
    value(0.0)
    found = next(module.parameters()).grad.view(-1)[0]
    assert abs(slopes) > 1e-3 and float(found) == pytest.approx(slopes, rel=1e-6)


def test_every_phase_sees_its_images_augmented_and_with_their_labels():
    for phase in ("Gmain", "Dmain", "Dreg"):
        loss, _ = relativistic(LayeredG(), RecordingD(), Tripled(), gamma=1.0)
        batch = labeled()
        loss.backward(phase, batch, nimg=0, gain=1)
        fake = batch.z.add(batch.c).mul(2.5 * 3)[:, :, None, None].expand(-1, -1, 2, 2)
        expected = [(fake, batch.c), (batch.real_img * 3, batch.real_c)]
        for (img, c), (wanted, label) in zip(loss.D.calls, expected, strict=True):
            torch.testing.assert_close(img, wanted)
            assert torch.equal(c, label)


def test_only_the_main_phase_of_d_moves_the_averages_of_g():
    loss, _ = relativistic(LayeredG(), gamma=1.0)
    for phase, moves in (("Gmain", False), ("Dmain", True), ("Dreg", False)):
        loss.G.calls.clear()
        loss.backward(phase, labeled(), nimg=0, gain=1)
        assert [moved for _, moved in loss.G.calls] == [moves]
