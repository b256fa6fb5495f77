"""Adam against `torch.optim.Adam`: updates, saved states, and what a training imports."""

import subprocess
import sys

import pytest
import torch

from sg3flow.training.adam import Adam

LR, BETAS = 2.5e-3, (0.0, 0.99 ** (16 / 17))
FORMS = ("fused", "foreach", "plain")


def weights() -> list[torch.nn.Parameter]:
    random = torch.Generator().manual_seed(1)
    shapes = ([3, 2], [5], [])
    return [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]


def reference(parameters, form):
    return torch.optim.Adam(parameters, LR, BETAS, fused=form == "fused", foreach=form == "foreach")


def update(optimizers, seed, skip=()):
    """One step of each optimizer with the same gradients; those of `skip` have none."""
    for optimizer, parameters in optimizers:
        random = torch.Generator().manual_seed(seed)
        optimizer.zero_grad()
        for i, parameter in enumerate(parameters):
            if i not in skip:
                parameter.grad = torch.randn(parameter.shape, generator=random)
        optimizer.step()


def assert_equal_states(ours, theirs):
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for i, state in theirs["state"].items():
        assert ours["state"][i].keys() == state.keys()
        for name, tensor in state.items():
            torch.testing.assert_close(ours["state"][i][name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_updates_and_states_are_those_of_torch_bit_for_bit(form):
    mine, theirs = weights(), weights()
    adam, torch_adam = Adam(mine, LR, BETAS, 1e-8, form), reference(theirs, form)
    for seed, skip in enumerate(((), (1,), ())):  # a parameter without a gradient stays as it is
        update([(adam, mine), (torch_adam, theirs)], seed, skip)
    for ours, expected in zip(mine, theirs, strict=True):
        assert torch.equal(ours, expected)
    assert_equal_states(adam.state_dict(), torch_adam.state_dict())


@pytest.mark.parametrize("form", FORMS)
def test_a_state_of_torch_continues_bit_for_bit_and_is_copied(form):
    theirs = weights()
    torch_adam = reference(theirs, form)
    update([(torch_adam, theirs)], 0, skip=(2,))
    mine = [torch.nn.Parameter(parameter.detach().clone()) for parameter in theirs]
    adam = Adam(mine, LR, BETAS, 1e-8, form)
    adam.load_state_dict(torch_adam.state_dict())
    update([(adam, mine)], 1)
    update([(torch_adam, theirs)], 1)
    for ours, expected in zip(mine, theirs, strict=True):
        assert torch.equal(ours, expected)
    assert_equal_states(adam.state_dict(), torch_adam.state_dict())


def test_without_gradients_nothing_is_updated():
    parameters = weights()
    adam = Adam(parameters, LR, BETAS, 1e-8)
    adam.step()
    assert adam.state_dict()["state"] == {}


# All phases of both kinds of generator, with ADA.
_STEPS = """
import sys, torch
from sg3flow.config import TrainConfig
from sg3flow.training.assembly import build, resolve
import sg3flow.training.job
from sg3flow.training.step import RealBatch, run_step

labels = torch.zeros(4, 0)
real = RealBatch(torch.zeros(4, 3, 16, 16), labels)
for cfg in ("stylegan3-t", "stylegan2"):
    config = resolve(TrainConfig(cfg=cfg, gpus=1, batch=4, gamma=1.0, cbase=256, cmax=8))
    parts = build(config, resolution=16, channels=3, c_dim=0, device=torch.device("cpu"))
    run_step(parts, real, lambda phase: (torch.randn(4, parts.G.z_dim), labels), 0, 4)
print([name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor"))])
"""


@pytest.mark.medium
def test_a_training_step_does_not_import_torchs_compiler():
    command = [sys.executable, "-c", _STEPS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "[]"
