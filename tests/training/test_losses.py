"""Loss terms and schedules by their formulas."""

import math

import numpy as np
import pytest
import torch
from small_networks import LayeredG, LinearD, LinearG, RecordingD, Tripled, labeled, micro
from torch import nn

from sg3flow import distributed
from sg3flow.networks import StyleGAN2Generator
from sg3flow.training.losses import Collector, GanLoss, LossSettings, MicroBatch, blur_taps
from sg3flow.training.step import ema_beta, update_ema

CPU = torch.device("cpu")


def make_loss(G=None, D=None, augment_pipe=None, **settings):
    collector = Collector(CPU)
    G, D = G or LinearG(), D or LinearD()
    return GanLoss(G, D, augment_pipe, LossSettings(**settings), collector, CPU), collector


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


def test_gradients_of_the_main_losses_are_means_over_the_batch():
    loss, _ = make_loss(augment_pipe=Tripled(), r1_gamma=0.0)
    batch = micro(3)
    # All logits are linear in G's gain, 2, and in D's weight, 0.5.
    fake = (batch.z.sum(1) * 4 * 2 * 0.5 * 3)[:, None]
    real = (batch.real_img.sum([1, 2, 3]) * 0.5 * 3)[:, None]
    loss.backward("Gmain", batch, nimg=0, gain=1)
    expected = (-torch.sigmoid(-fake) * fake / 2).mean()
    assert loss.G.gain.grad is not None
    assert float(loss.G.gain.grad) == pytest.approx(float(expected), rel=1e-5)
    loss.D.weight.grad = None
    loss.backward("Dmain", batch, nimg=0, gain=1)
    expected = (torch.sigmoid(fake) * fake).mean() / 0.5 - (
        torch.sigmoid(-real) * real
    ).mean() / 0.5
    assert float(loss.D.weight.grad) == pytest.approx(float(expected), rel=1e-5)


def test_every_phase_sees_its_images_augmented_and_with_their_labels():
    for phase in ("Gmain", "Dmain", "Dreg"):
        loss, _ = make_loss(LayeredG(), RecordingD(), Tripled(), r1_gamma=1.0)
        batch = labeled()
        loss.backward(phase, batch, nimg=0, gain=1)
        fake = batch.z.add(batch.c).mul(2.5 * 3)[:, :, None, None].expand(-1, -1, 2, 2)
        fakes, reals = (fake, batch.c), (batch.real_img * 3, batch.real_c)
        expected = {"Gmain": [fakes], "Dmain": [fakes, reals], "Dreg": [reals]}[phase]
        for (img, c), (wanted, label) in zip(loss.D.calls, expected, strict=True):
            torch.testing.assert_close(img, wanted)
            assert torch.equal(c, label)


def test_ada_hears_the_signs_of_reals_once():
    loss, _ = make_loss(r1_gamma=0.0)
    empty = torch.zeros(3, 0)
    batch = MicroBatch(torch.ones(3, 4, 2, 2), empty, -torch.ones(3, 4), empty)
    loss.backward("Gmain", batch, nimg=0, gain=1)
    loss.backward("Dmain", batch, nimg=0, gain=1)
    loss.backward("Dreg", batch, nimg=0, gain=16)
    assert loss.take_real_signs().tolist() == [3, 3]
    assert loss.take_real_signs().tolist() == [0, 0]


def test_only_the_main_phase_of_d_moves_the_averages_of_g():
    loss, _ = make_loss(LayeredG(), r1_gamma=0.0, pl_weight=1.0, style_mixing_prob=1.0)
    for phase, moves in (("Gmain", False), ("Greg", False), ("Dmain", True)):
        loss.G.calls.clear()
        loss.G.maps_move.clear()
        loss.backward(phase, labeled(), nimg=0, gain=1)
        assert [moved for _, moved in loss.G.calls] == [moves]
        assert loss.G.maps_move == [moves, False]  # the latents that are mixed in never do


def crossovers(prob: float, count: int) -> list[int]:
    """The number of first layers with their own w, in `count` steps of G with style mixing."""
    loss, _ = make_loss(LayeredG(), r1_gamma=0.0, style_mixing_prob=prob)
    batch = labeled()
    torch.manual_seed(0)
    for _ in range(count):
        loss.backward("Gmain", batch, nimg=0, gain=1)
    own = [ws > 500 for ws, _ in loss.G.calls]  # [N, layers, w_dim]; the others are about 100
    others = torch.cat([ws[~mine] for (ws, _), mine in zip(loss.G.calls, own, strict=True)])
    assert not len(others) or abs(float(others.mean()) - 100) < 1  # of the same label
    first = [int(mine[0, :, 0].sum()) for mine in own]
    for mine, layers in zip(own, first, strict=True):
        assert mine[:, :layers].all() and not mine[:, layers:].any()
    return first


def test_style_mixing_replaces_the_later_layers_with_its_probability():
    assert set(crossovers(0.0, 20)) == {5}
    assert set(crossovers(1.0, 60)) == {1, 2, 3, 4}
    mixed = [layers < 5 for layers in crossovers(0.25, 300)]
    assert 0.18 < sum(mixed) / len(mixed) < 0.32


def lengths_of(gains: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """sqrt(mean over layers |J_w^T y|^2) of LayeredG: dimg / dw_l is gain_l in all pixels."""
    return (gains.square().mean() * noise.sum((2, 3)).square().sum(1)).sqrt()


def test_path_length_penalty_by_its_formula():
    loss, _ = make_loss(LayeredG(), r1_gamma=0.0, pl_decay=0.01)
    loss.pl_mean.fill_(0.5)
    ws = torch.randn(3, 5, 4, requires_grad=True)
    img, noise = loss.G.synthesis(ws, None, None), torch.randn(3, 4, 2, 2)
    penalty = loss.path_length_penalty(loss.path_lengths(img, ws, noise))
    gains = loss.G.gains.detach().requires_grad_()
    lengths = lengths_of(gains, noise)
    mean = 0.5 * 0.99 + lengths.mean() * 0.01
    torch.testing.assert_close(penalty, (lengths - mean).square())
    torch.testing.assert_close(loss.pl_mean, mean.detach())
    # The mean is part of the penalty's gradient.
    (found,) = torch.autograd.grad(penalty.mean(), loss.G.gains)
    (expected,) = torch.autograd.grad((lengths - mean).square().mean(), gains)
    torch.testing.assert_close(found, expected)


def test_path_length_phase_weighs_half_of_the_batch():
    loss, collector = make_loss(LayeredG(), r1_gamma=0.0, pl_weight=3.0, pl_decay=0.25)
    batch = labeled(6)
    torch.manual_seed(5)
    loss.backward("Greg", batch, nimg=0, gain=4)
    torch.manual_seed(5)
    noise = torch.randn(3, 4, 2, 2) / 2  # one over the root of the pixels
    gains = loss.G.gains.detach().requires_grad_()
    lengths = lengths_of(gains, noise)
    penalty = (lengths - lengths.mean() * 0.25).square()
    stats = collector.read()
    assert (stats["Loss/pl_penalty"].num, stats["Loss/G/reg"].num) == (3, 3)
    mean = float(penalty.detach().mean())
    assert stats["Loss/pl_penalty"].mean == pytest.approx(mean, rel=1e-5)
    assert stats["Loss/G/reg"].mean == pytest.approx(3 * mean, rel=1e-5)
    (penalty.mean() * 3 * 4).backward()
    torch.testing.assert_close(loss.G.gains.grad, gains.grad)


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


def test_statistics_are_the_same_in_few_launches(monkeypatch):
    values = torch.tensor([0.5, -2.0, 3.25, 1e-3])
    found = []
    for fused in (False, True):
        monkeypatch.setattr("sg3flow.training.losses.has_fused_forms", lambda _, fused=fused: fused)
        collector = Collector(CPU)
        for nimg, factor in ((100, 1.0), (200, math.inf), (300, math.nan), (400, -math.inf)):
            collector.nimg = nimg
            collector.add("fine", values)
            collector.add("first inf", values * (factor if nimg > 100 else 1.0))
            collector.add("one nan", torch.where(values > 3, factor, values))
        fine = collector.read()["fine"]
        collector.add("none", values[:0])
        found.append((collector.first_bad(), fine, collector.state()["none"].tolist()))
    assert found[1] == found[0]
    assert found[0][0] == {"first inf": 200, "one nan": 200} and found[0][1].num == 16
