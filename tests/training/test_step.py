"""One step: accumulated gradients, non-finite gradients and their statistics."""

import dataclasses
import math

import pytest
import torch

from sg3flow.config import TrainConfig
from sg3flow.errors import DivergedError
from sg3flow.training.assembly import Parts, build, resolve, select
from sg3flow.training.batch_size_finder import MemorySettings
from sg3flow.training.loop import Clock, LoopSettings, TrainingLoop
from sg3flow.training.losses import Collector
from sg3flow.training.step import RealBatch, run_step, seed_step

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


@pytest.mark.parametrize("nimg", [0, BATCH])  # the last phases are Gmain and Dreg, Gmain and Dmain
@pytest.mark.parametrize(
    "cfg", ["stylegan3-t", pytest.param("stylegan3-r", marks=pytest.mark.medium)]
)
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
        options = parts.optimizers["G"].param_groups[0]
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
