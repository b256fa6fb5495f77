"""One step: phases, accumulated gradients, EMA, ADA, optimizers, non-finite gradients."""

import dataclasses
import math

import pytest
import torch

from sg3flow.config import TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet
from sg3flow.errors import DivergedError
from sg3flow.training.assembly import (
    NetworkSettings,
    Parts,
    build,
    generator_kwargs,
    lazy_adam,
    loss_settings,
    resolve,
    select,
)
from sg3flow.training.batch_size_finder import MemorySettings
from sg3flow.training.gradient_average import GradientAverage
from sg3flow.training.loop import Clock, LoopSettings, TrainingLoop
from sg3flow.training.losses import Collector
from sg3flow.training.step import (
    RealBatch,
    _adjust_augmentation,
    _take_signs,
    random_draw,
    run_step,
    seed_step,
    training_step,
    update_ema,
)

CPU = torch.device("cpu")
BATCH = 8


def make_parts(cfg: str = "stylegan3-t", **settings) -> tuple[TrainConfig, Parts]:
    config = TrainConfig(
        cfg=cfg, gpus=1, batch=BATCH, gamma=1.0, cbase=256, cmax=8, map_depth=1, aug="noaug"
    )
    config = resolve(dataclasses.replace(config, **settings))
    return config, build(config, resolution=16, channels=3, c_dim=0, device=CPU)


def batch_of(order: list[int]):
    random = torch.Generator().manual_seed(1)
    img = torch.rand(BATCH, 3, 16, 16, generator=random, dtype=torch.float64) * 2 - 1
    latents = {
        phase: torch.randn(BATCH, 512, generator=random, dtype=torch.float64)
        for phase in ("Gmain", "Greg", "Dmain", "Dreg")
    }
    labels = torch.zeros(BATCH, 0)
    real = RealBatch(img[order], labels)
    return real, lambda phase: (latents[phase][order], labels)


def phases_of(parts: Parts, nimg: int, monkeypatch) -> list[tuple]:
    """The phases of a step, their gain and which of G and D get gradients; no updates."""
    real, draw = batch_of(list(range(8)))
    calls = []

    def record(phase, micro, nimg, gain, before_last):
        trained = [next(net.parameters()).requires_grad for net in (parts.G, parts.D)]
        assert torch.equal(micro.z, draw(phase)[0]) and torch.equal(micro.real_img, real.img)
        calls.append((phase, gain, *trained))

    monkeypatch.setattr(parts.loss, "backward", record)
    run_step(parts, real, draw, nimg, BATCH)
    return calls


def test_phases_have_their_order_interval_and_gain(monkeypatch):
    g_main, d_main = ("Gmain", 1, True, False), ("Dmain", 1, False, True)
    g_reg, d_reg = ("Greg", 4, True, False), ("Dreg", 16, False, True)
    _, parts = make_parts("stylegan2")
    for step in (0, 16, 32):
        found = phases_of(parts, step * BATCH, monkeypatch)
        assert found == [g_main, g_reg, d_main, d_reg]
    for step in (4, 8, 12):
        assert phases_of(parts, step * BATCH, monkeypatch) == [g_main, g_reg, d_main]
    for step in (1, 2, 15, 17):
        assert phases_of(parts, step * BATCH, monkeypatch) == [g_main, d_main]
    _, parts = make_parts("stylegan3-t")
    assert phases_of(parts, 0, monkeypatch) == [g_main, d_main, d_reg]


def test_the_average_of_g_follows_the_images_before_the_step(monkeypatch):
    _, parts = make_parts()
    with torch.no_grad():
        for average, weight in zip(parts.G_ema.parameters(), parts.G.parameters(), strict=True):
            average.fill_(0)
            weight.fill_(1)
    phases_of(parts, 1000 * BATCH, monkeypatch)
    half_life = 1000 * BATCH * 0.05  # less than that of a long training, BATCH * 10000 / 32
    expected = 1 - 0.5 ** (BATCH / half_life)
    assert float(next(parts.G_ema.parameters()).mean()) == pytest.approx(expected, rel=1e-5)
    phases_of(parts, 0, monkeypatch)
    assert float(next(parts.G_ema.parameters()).mean()) == 1


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9989])
def test_the_average_is_updated_bit_for_bit_as_one_tensor_after_the_other(beta):
    _, parts = make_parts()
    random = torch.Generator().manual_seed(0)
    for network in (parts.G, parts.G_ema):
        for tensor in network.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=random))
    pairs = zip(parts.G_ema.parameters(), parts.G.parameters(), strict=True)
    expected = [current.lerp(average, beta) for average, current in pairs]
    update_ema(parts.G_ema, parts.G, beta)
    for average, wanted in zip(parts.G_ema.parameters(), expected, strict=True):
        assert torch.equal(average, wanted)
    for copy, buffer in zip(parts.G_ema.buffers(), parts.G.buffers(), strict=True):
        assert torch.equal(copy, buffer)


def test_lazy_adam_corrects_rate_and_betas_for_the_updates_of_the_regularizer():
    """(Karras et al. 2020, appendix B): c = k / (k + 1), lr c, beta^c."""
    module = torch.nn.Linear(2, 2)
    for interval, c in ((16, 16 / 17), (4, 4 / 5), (None, 1.0)):
        adam = lazy_adam(module, 0.002, interval)
        assert adam.lr == pytest.approx(0.002 * c)
        assert adam.betas == pytest.approx((0.0, 0.99**c))
        assert adam.eps == 1e-8


def test_presets_have_their_optimizers_and_schedules():
    rates = {}
    for cfg in ("stylegan3-t", "stylegan3-r", "stylegan2"):
        _, parts = make_parts(cfg, dlr=0.001)
        rates[cfg] = [parts.optimizers[name].lr for name in "GD"]
        assert (parts.ema_half_life_nimg, parts.ema_rampup) == (BATCH * 10e3 / 32, 0.05)
        assert (parts.ada_nimg, parts.ada_target, parts.augment_pipe) == (500e3, None, None)
    d_rate = pytest.approx(0.001 * 16 / 17)
    assert rates["stylegan3-t"] == rates["stylegan3-r"] == [0.0025, d_rate]
    assert rates["stylegan2"] == [pytest.approx(0.002 * 4 / 5), d_rate]
    _, transfer = make_parts(resume="anything.pt")
    assert (transfer.ema_rampup, transfer.ada_nimg) == (None, 100e3)
    _, fixed = make_parts(aug="fixed", p=0.2)
    assert (float(fixed.augment_pipe.p), fixed.ada_target) == (pytest.approx(0.2), None)
    _, ada = make_parts(aug="ada", p=0.2, target=0.7)
    assert (float(ada.augment_pipe.p), ada.ada_target) == (0, 0.7)


def test_presets_have_their_losses_and_networks():
    two = loss_settings("stylegan2", 7.0, 32, from_scratch=True)
    assert (two.r1_gamma, two.pl_weight, two.pl_decay) == (7.0, 2.0, 0.01)
    assert (two.style_mixing_prob, two.pl_batch_shrink, two.blur_init_sigma) == (0.9, 2, 0)
    r = loss_settings("stylegan3-r", 7.0, 16, from_scratch=True)
    assert (r.blur_init_sigma, r.blur_fade_nimg, r.pl_weight) == (10.0, 100e3, 0)
    assert loss_settings("stylegan3-r", 7.0, 16, from_scratch=False).blur_init_sigma == 0
    assert loss_settings("stylegan3-t", 7.0, 16, from_scratch=True).blur_init_sigma == 0
    layers = {}
    for cfg in ("stylegan3-t", "stylegan3-r", "stylegan2"):
        config = resolve(TrainConfig(cfg=cfg, gpus=1, batch=16, gamma=1, cbase=256, cmax=8))
        settings = select(NetworkSettings, config)
        kwargs = generator_kwargs(settings, resolution=16, channels=3, c_dim=0)
        layers[cfg] = kwargs["mapping_kwargs"]["num_layers"]
        widths = (kwargs["channel_base"], kwargs["channel_max"])
        assert widths == ((512, 16) if cfg == "stylegan3-r" else (256, 8))
        decay = kwargs.get("magnitude_ema_beta")
        assert decay == (None if cfg == "stylegan2" else pytest.approx(0.5 ** (16 / 20_000)))
    assert layers == {"stylegan3-t": 2, "stylegan3-r": 2, "stylegan2": 8}
    _, parts = make_parts(mbstd_group=2)
    assert parts.D.b4.mbstd_group_size == 2


def adjusted(p: float, *batches: float) -> float:
    """p after batches of 8 images, given by the sum of D's signs on each; steps are of 0.1."""
    _, parts = make_parts(aug="ada", target=0.6)
    parts.augment_pipe.p.fill_(p)
    parts.ada_nimg = 4 * BATCH / 0.1
    for number, total in enumerate(batches, start=1):
        parts.loss._real_signs = torch.tensor([float(BATCH), total])
        signs = _take_signs(parts, number)
        if signs is not None:
            _adjust_augmentation(parts, BATCH, signs.values)
    return round(float(parts.augment_pipe.p), 6)


def test_ada_raises_p_while_d_is_too_sure_of_reals():
    """More augmentation where the mean sign is above the target, by equal steps (Sec. 3)."""
    assert adjusted(0.3, 8, 8, 8, 8) == 0.4  # the mean sign is 1
    assert adjusted(0.3, 8, 8, 4, 2) == 0.4  # 0.69
    assert adjusted(0.3, 8, 8, 2, 0) == 0.2  # 0.56
    assert adjusted(0.3, -8, -8, -8, -8) == 0.2


def test_ada_adjusts_after_four_batches_by_all_of_them():
    assert adjusted(0.3, 8, 8, 8) == 0.3
    assert adjusted(0.3, -8, 8, 8, 8) == 0.2  # 0.5: the last batch alone would raise it
    up_and_down = (8, 8, 8, 8, 4, 4, 4, 4)
    assert adjusted(0.3, *up_and_down) == 0.3
    assert adjusted(0.3, *up_and_down[:7]) == 0.4


def test_p_never_falls_below_0():
    assert adjusted(0.05, -8, -8, -8, -8) == 0
    assert adjusted(0.95, 8, 8, 8, 8) == 1.05  # beyond 1, which counts as 1


@pytest.mark.parametrize(("bias", "expected"), [(100.0, 0.4), (-100.0, 0.2)])
def test_a_step_tells_ada_what_d_says_of_reals(bias, expected):
    _, parts = make_parts(aug="ada", target=0.6, dlr=1e-15)
    parts.augment_pipe.p.fill_(0.3)
    parts.ada_nimg = 4 * BATCH / 0.1
    with torch.no_grad():
        parts.D.b4.out.bias.fill_(bias)
    real, draw = batch_of(list(range(8)))
    real = RealBatch(real.img.float(), real.c)
    found = []
    for step in (1, 2, 3):
        run_step(parts, real, lambda phase: (draw(phase)[0].float(), real.c), step * BATCH, BATCH)
        found.append(round(float(parts.augment_pipe.p), 6))
    assert found == [0.3, 0.3, expected]


def test_gradients_are_repaired_by_value():
    weights = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
    weights[0].grad = torch.tensor([1.0, math.nan])
    weights[1].grad = torch.tensor([math.inf, -math.inf, -2.0])
    average = GradientAverage(weights)
    assert bool(average.finish())
    assert weights[0].grad.tolist() == [1, 0] and weights[1].grad.tolist() == [1e5, -1e5, -2]
    assert not bool(average.finish())
    weights[0].grad = None
    assert not bool(average.finish()) and weights[0].grad is None
    weights[1].grad = None
    assert average.finish() is None


def test_the_inputs_of_a_step(tiny_set):
    real = RealBatch.of((torch.tensor([0, 51, 255], dtype=torch.uint8), torch.ones(1)), CPU)
    torch.testing.assert_close(real.img, torch.tensor([-1, -0.6, 1]))
    items = TrainingSet(PackedSet(tiny_set), labels=True)
    numbers = {}
    for seed, nimg in ((0, 0), (0, 8), (1, 0), (0, 0)):
        seed_step(seed, nimg)
        z, c = random_draw(items, 16, 64, CPU)("Gmain")
        numbers[seed, nimg] = float(z[0, 0])
        assert z.shape == (64, 16) and abs(float(z.std()) - 1) < 0.1
        # each label is one-hot; the three classes come about equally often
        assert torch.equal(c.sum(dim=1), torch.ones(64)) and float(c.mean(dim=0).min()) > 0.15
    assert len(set(numbers.values())) == 3
    seed_step(0, 0)
    assert numbers[0, 0] == float(random_draw(items, 16, 64, CPU)("Gmain")[0][0, 0])


@pytest.mark.parametrize(
    ("settings", "shares"),
    [({}, False), ({"class_batches": True}, True), ({"loss": "relativistic"}, True)],
)
def test_generated_images_share_the_labels_of_the_reals(tiny_set, monkeypatch, settings, shares):
    _, parts = make_parts(cond=True, **settings)
    items = TrainingSet(PackedSet(tiny_set), labels=True)
    chosen = [0, 1, 2, 3, 4, 5, 6, 7]
    batch = tuple(torch.stack(part) for part in zip(*(items[i] for i in chosen), strict=True))
    seen = []
    monkeypatch.setattr(parts.loss, "backward", lambda phase, micro, *_: seen.append(micro))
    training_step(parts, items, iter([batch]), 0, seed=0, batch=8, batch_gpu=8)
    assert len(seen) == 3 and all(torch.equal(micro.real_c, batch[1]) for micro in seen)
    assert [torch.equal(micro.c, batch[1]) for micro in seen] == [shares] * 3
    assert not torch.equal(seen[0].z, seen[1].z)


@pytest.mark.parametrize("nimg", [0, BATCH])  # the last phases are Gmain and Dreg, Gmain and Dmain
@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r"])
@pytest.mark.medium
def test_accumulated_gradients_are_those_of_the_whole_batch(cfg, nimg):
    # The groups of the minibatch deviation are strided over a pass: in this order the two halves
    # hold the groups of the whole batch.
    halves = [0, 2, 4, 6, 1, 3, 5, 7]
    gradients = []
    for batch_gpu, order in ((8, list(range(8))), (4, halves)):
        config, parts = make_parts(cfg, batch_gpu=batch_gpu, glr=1e-15, dlr=1e-15)
        for network in (parts.G, parts.D, parts.G_ema):
            network.double()
        for layer in parts.G.modules():  # two small updates of a moving average are not one
            if hasattr(layer, "magnitude_ema_beta"):
                layer.magnitude_ema_beta = 1.0
        seed_step(0, nimg)
        run_step(parts, *batch_of(order), nimg, config.batch_gpu)
        gradients.append([flat_gradient(network) for network in (parts.G, parts.D)])
    for whole, accumulated in zip(*gradients, strict=True):
        # The sum over passes, not their mean: Adam makes the factor immaterial. The styles are
        # normalized over a pass, which the 1e-8 of the demodulation lets through.
        error = (accumulated / 2 - whole).abs().max() / whole.abs().max()
        assert float(error) < 1e-5


def test_the_forms_of_adam_agree_but_for_rounding():
    real, draw = batch_of(list(range(8)))
    real = RealBatch(real.img.float(), real.c)
    weights = {}
    for form in ("fused", "foreach", "plain"):
        _, parts = make_parts(optimizer=form)
        (options,) = parts.optimizers["G"].state_dict()["param_groups"]
        assert (options["fused"], options["foreach"]) == (form == "fused", form == "foreach")
        seed_step(0, 0)
        run_step(parts, real, lambda phase: (draw(phase)[0].float(), real.c), 0, BATCH)
        weights[form] = torch.cat([p.flatten() for p in parts.G.parameters()])
    for form in ("foreach", "plain"):  # after a step of 2.5e-3, or of a rounding in large weights
        assert torch.allclose(weights[form], weights["fused"], rtol=1e-6, atol=1e-6)


def flat_gradient(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def broken_gradient(parts: Parts, value: float) -> None:
    """From now on one gradient of D has a non-finite value."""
    weight = next(parts.D.parameters())

    def make_bad(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[(0,) * gradient.ndim] = value
        return gradient

    weight.requires_grad_(True)
    weight.register_hook(make_bad)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_repaired_and_counted(value):
    config, parts = make_parts()
    broken_gradient(parts, value)
    real, draw = batch_of(list(range(8)))
    real = RealBatch(real.img.float(), real.c)
    for nimg in (0, BATCH):
        run_step(parts, real, draw, nimg, config.batch_gpu)
    assert all(torch.isfinite(p).all() for p in parts.D.parameters())
    stats = parts.collector.read()
    assert (stats["Repairs/Dmain"].num, stats["Repairs/Dmain"].mean) == (2, 1.0)
    assert stats["Repairs/Gmain"].mean == 0
    assert parts.collector.first_bad() == {"Repairs/Dmain": 0, "Repairs/Dreg": 0}


def test_too_many_repairs_end_the_training_and_name_step_and_term():
    config, parts = make_parts()
    for number in range(6):
        parts.collector.nimg = 80 + 8 * number
        bad = torch.tensor(number >= 2)
        parts.collector.add("Repairs/Gmain", bad.float(), bad=bad)
    items = batches = None

    def check(limit: int) -> None:
        limited = dataclasses.replace(config, max_nonfinite_updates=limit)
        settings, memory = select(LoopSettings, limited), select(MemorySettings, limited)
        loop = TrainingLoop(settings, memory, parts, items, batches, Clock(128, 0), None)
        loop._check_stats()

    check(0)
    check(4)
    with pytest.raises(
        DivergedError, match=r"Gmain .*4 updates.*max_nonfinite_updates 3.*in step 12 \(after 96"
    ):
        check(3)


def test_the_first_value_that_is_not_finite_is_remembered_through_a_resume():
    collector = Collector(CPU)
    for nimg, value in ((0, 1.0), (8, math.inf), (16, math.nan)):
        collector.nimg = nimg
        collector.add("Loss/G/loss", torch.tensor([value]))
        collector.add("Loss/D/loss", torch.tensor([1.0]))
    resumed = Collector(CPU)
    resumed.load_state(collector.state())
    assert resumed.first_bad() == collector.first_bad() == {"Loss/G/loss": 8}
    assert resumed.read()["Loss/D/loss"].num == 3
