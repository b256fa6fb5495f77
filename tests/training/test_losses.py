"""Loss terms and schedules by their formulas."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sg3flow import distributed
from sg3flow.networks import StyleGAN2Generator
from sg3flow.training.losses import Collector, GanLoss, LossSettings, MicroBatch, blur_taps
from sg3flow.training.step import ema_beta, update_ema

CPU = torch.device("cpu")


class LinearG(nn.Module):
    z_dim = 4

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.mapping = lambda z, c, update_emas: z[:, None, :]
        self.synthesis = lambda ws, noise_mode, update_emas: (
            ws[:, 0, :, None, None].expand(-1, -1, 2, 2) * self.gain
        )


class LinearD(nn.Module):
    """Logit = weight * sum of the pixels: the gradient wrt the pixels is weight everywhere."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, img, c):
        return (img * self.weight).sum([1, 2, 3])[:, None]


def make_loss(**settings):
    collector = Collector(CPU)
    loss = GanLoss(LinearG(), LinearD(), None, LossSettings(**settings), collector, CPU)
    return loss, collector


def micro(n=2):
    torch.manual_seed(0)
    empty = torch.zeros(n, 0)
    return MicroBatch(torch.randn(n, 4, 2, 2), empty, torch.randn(n, 4), empty)


def test_r1_is_the_squared_gradient_norm():
    loss, collector = make_loss(r1_gamma=3.0)
    loss.backward("Dreg", micro(), nimg=0, gain=16)
    # |grad|^2 = 16 weight^2 = 4; d/dweight of gamma/2 * 16 weight^2, times the interval
    assert collector.read()["Loss/r1_penalty"].mean == pytest.approx(4.0)
    assert float(loss.D.weight.grad) == pytest.approx(3.0 / 2 * 16 * 2 * 0.5 * 16)


def test_main_losses_are_logistic():
    loss, collector = make_loss(r1_gamma=0.0)
    batch = micro()
    loss.backward("Gmain", batch, nimg=0, gain=1)
    fake = loss.G.synthesis(batch.z[:, None], None, None)
    logits = loss.D(fake, None)
    expected = torch.log1p(torch.exp(-logits)).mean().detach()
    assert collector.read()["Loss/G/loss"].mean == pytest.approx(float(expected), rel=1e-6)
    loss.backward("Dmain", batch, nimg=0, gain=1)
    real = torch.log1p(torch.exp(-loss.D(batch.real_img, None))).mean()
    expected = (torch.log1p(torch.exp(logits)).mean() + real).detach()
    assert collector.read()["Loss/D/loss"].mean == pytest.approx(float(expected), rel=1e-6)
    count, total = loss.take_real_signs().tolist()
    assert count == 2 and total == float(loss.D(batch.real_img, None).detach().sign().sum())


def test_path_length_phase_matches_the_expected_numbers(golden, monkeypatch):
    with np.load(golden / "pathlength.npz") as arrays:
        data = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    state = {k.removeprefix("G."): v for k, v in data.items() if k.startswith("G.")}
    G = StyleGAN2Generator(
        z_dim=32, c_dim=0, w_dim=32, img_resolution=32, img_channels=3,
        channel_base=1024, channel_max=32,
    )  # fmt: skip
    G.load_state_dict(state)
    G.train()
    synthesis = G.synthesis.forward
    monkeypatch.setattr(
        G.synthesis, "forward", lambda ws, **kw: synthesis(ws, **(kw | {"noise_mode": "none"}))
    )
    monkeypatch.setattr(distributed, "randn", lambda size, device: data["pl_noise"])
    settings = LossSettings(r1_gamma=0, pl_weight=2)
    loss = GanLoss(G, None, None, settings, Collector(CPU), CPU)
    loss.pl_mean.copy_(data["pl_mean_before"])
    z = data["z"]
    empty = torch.zeros(z.shape[0], 0)
    loss.backward("Greg", MicroBatch(empty, empty, z, empty), nimg=0, gain=4)
    assert float(loss.pl_mean) == pytest.approx(float(data["pl_mean_after"]), rel=1e-5)
    for name, parameter in G.named_parameters():
        expected = data.get(f"grad.{name}")
        if expected is not None and parameter.grad is not None:
            error = (parameter.grad - expected).norm() / expected.norm().clamp(min=1e-6)
            assert error < 1e-2, (name, float(error))


def test_blur_fades_linearly_and_ends():
    loss, _ = make_loss(r1_gamma=0.0, blur_init_sigma=10.0, blur_fade_nimg=1000.0)
    assert [loss.blur_sigma(n) for n in (0, 500, 1000, 5000)] == [10.0, 5.0, 0.0, 0.0]
    taps = blur_taps(10.0)
    assert taps is not None and len(taps) == 61 and float(taps.sum()) == pytest.approx(1)
    assert float(taps[30] / taps[40]) == pytest.approx(2.0)
    assert blur_taps(0.3) is None


def test_ema_follows_its_formula():
    assert ema_beta(32, 10**9, 10_000, 0.05) == pytest.approx(0.5 ** (32 / 10_000))
    assert ema_beta(32, 1000, 10_000, 0.05) == pytest.approx(0.5 ** (32 / 50))
    assert ema_beta(32, 0, 10_000, 0.05) == 0.0
    assert ema_beta(32, 0, 10_000, None) == pytest.approx(0.5 ** (32 / 10_000))
    old, new = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        new.weight.fill_(3.0)
        new.running_mean.fill_(7.0)
    update_ema(old, new, 0.75)
    assert old.weight.tolist() == [1.5, 1.5] and old.running_mean.tolist() == [7.0, 7.0]


def test_collector_gives_mean_and_deviation_and_resumes():
    collector = Collector(CPU)
    collector.add("a", torch.tensor([1.0, 2.0]))
    other = Collector(CPU)
    other.load_state(collector.state())
    other.add("a", torch.tensor([6.0]))
    stat = other.read()["a"]
    assert (stat.num, stat.mean) == (3, 3.0)
    assert stat.std == pytest.approx(math.sqrt(14 / 3))
