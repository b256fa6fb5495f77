"""What is only known on a GPU: CUDA graphs, the forms of convolutions, and their times.

`SG3FLOW_GRAPHS_DEVICE=cpu python -m pytest -m gpu tests/training/test_on_gpu.py` runs the tests
themselves without one, with the stand-ins.
"""

import os

import pytest
import torch
from graph_steps import RerunRecorder, assert_equal, make_parts, state_of, take_steps

from sg3flow.ops import modulated_conv2d
from sg3flow.ops.conv_forms import FORMS, conv_in_form, seen_layers, use_forms
from sg3flow.training.conv_choice import FormMeter, cuda_timer, run_networks
from sg3flow.training.cuda_graphs import CudaRecorder

DEVICE = os.environ.get("SG3FLOW_GRAPHS_DEVICE", "cuda")
HAS_GPU = DEVICE == "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        HAS_GPU and not torch.cuda.is_available(), reason="no CUDA device is visible"
    ),
]


@pytest.fixture(autouse=True)
def same_algorithms(monkeypatch):
    """Without algorithms of cuDNN that add in a random order."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    use_forms({})


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r", "stylegan2"])
@pytest.mark.parametrize("batch_gpu", [4, 2])
def test_replayed_graphs_equal_the_eager_step(cfg, batch_gpu):
    states = []
    for recorder in (None, None, CudaRecorder() if HAS_GPU else RerunRecorder()):
        parts = make_parts(cfg, recorder, DEVICE, 32, cbase=2048, cmax=32, batch_gpu=batch_gpu)
        take_steps(parts, range(5), batch_gpu)
        states.append(state_of(parts))
    assert_equal(states[1], states[0])  # else a step does not even repeat itself
    assert_equal(states[2], states[0])


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4])
def test_forms_of_a_convolution_agree_in_half_precision(half, groups):
    x = torch.randn(4 // groups, groups * 91, 20, 20, device=DEVICE)
    w = torch.randn(groups * 181, 91, 3, 3, device=DEVICE) / 29
    expected = torch.nn.functional.conv2d(x.double(), w.double(), padding=1, groups=groups)
    errors = {
        name: float(
            (
                conv_in_form(form, x.to(half), w.to(half), 1, (1, 1), groups, False).double()
                - expected
            )
            .abs()
            .max()
        )
        for name, form in FORMS.items()
    }
    for name, error in errors.items():
        assert error <= 2 * errors["nchw"], errors | {"of": name}


def test_both_forms_of_modulation_agree_in_half_precision():
    x, w, s = (torch.randn(*n, device=DEVICE) for n in ([4, 91, 20, 20], [181, 91, 3, 3], [4, 91]))
    options = {"padding": 2, "normalize": "rms"}
    expected = modulated_conv2d(x.double(), w.double(), s.double(), **options)
    grouped, shared = (
        float((modulated_conv2d(x.half(), w, s, per_sample=each, **options) - expected).abs().max())
        for each in (True, False)
    )
    assert shared <= 4 * grouped and grouped < 0.05


def test_every_layer_gets_a_form(capsys):
    parts = make_parts("stylegan3-t", None, DEVICE, 32, cbase=2048, cmax=45)
    with seen_layers() as seen:
        run_networks(parts.G, parts.D, 4)
    chosen = FormMeter(parts.device, cuda_timer if HAS_GPU else _run_once).measure(list(seen))
    assert set(seen) <= set(chosen) and len(chosen) > 5
    with capsys.disabled():
        for layer, found in chosen.items():
            print(f"{layer}: {found.form} {found.ms}")


def _run_once(run) -> float:
    run()
    return 1.0
