"""The precision in force during each kind of work; on a CPU, where it changes no number."""

import dataclasses
import json
import threading
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from sg3flow.checkpoints import load_networks
from sg3flow.networks import StyleGAN3Generator
from sg3flow.precision import EXACT, Precision, computing, current
from sg3flow.rendering.images import RenderOptions, render_image
from sg3flow.runs.run_folder import read_provenance
from sg3flow.training import batch_size_finder
from sg3flow.training.assembly import build, resolve
from sg3flow.training.job import precision_words
from sg3flow.training.training_run import train

FAST = Precision(tf32=True, cudnn_benchmark=True)
SIZES = {"resolution": 16, "channels": 3, "c_dim": 0}


def names():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark


@pytest.fixture(autouse=True)
def torch_default():
    """Torch's own: TF32 for convolutions, not for matrix products; each test leaves it so."""
    assert names() == ("none", "tf32", False)
    yield
    assert names() == ("none", "tf32", False)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (EXACT, ("ieee", "ieee", False)),
        (Precision(tf32=True), ("tf32", "tf32", False)),
        (Precision(cudnn_benchmark=True), ("ieee", "ieee", True)),
    ],
)
def test_a_block_sets_every_flag(precision, expected):
    with computing(precision):
        assert names() == expected and current() == precision


def test_the_innermost_block_counts_and_errors_restore_too():
    with computing(FAST), computing(Precision(tf32=True)):
        with pytest.raises(ZeroDivisionError), computing():
            assert current() == EXACT
            raise ZeroDivisionError
        assert current() == Precision(tf32=True)


def test_what_a_user_chose_returns():
    torch.backends.cudnn.benchmark = True
    try:
        with computing():
            assert current() == EXACT
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False


def test_threads_that_end_in_any_order_leave_the_precision_of_those_that_run():
    first_ended, found = threading.Event(), []

    def second():
        with computing():
            entered.set()
            first_ended.wait(10)
            found.append(current())

    entered = threading.Event()
    with ExitStack() as first:
        first.enter_context(computing(EXACT))
        thread = threading.Thread(target=second)
        thread.start()
        assert entered.wait(10)
    first_ended.set()
    thread.join()
    assert found == [EXACT]


def test_older_flags_can_be_read_again_after_a_block():
    """Reading them while both kinds are set is an error of torch."""
    with computing():
        pass
    assert torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


class Seen(set):
    """The precisions in which layers of a kind run."""

    def __init__(self, monkeypatch, kind="sg3flow.networks.layers.FullyConnectedLayer"):
        super().__init__()
        module, name = kind.rsplit(".", 1)
        owner = getattr(__import__(module, fromlist=[name]), name)
        forward = owner.forward

        def watched(layer, *args, **kwargs):
            self.add(current())
            return forward(layer, *args, **kwargs)

        monkeypatch.setattr(owner, "forward", watched)


@pytest.mark.parametrize("settings", [{}, {"tf32": True}, {"cudnn_benchmark": True}])
def test_a_training_runs_and_records_what_its_settings_say(
    tiny_config, tiny_set, tmp_path, monkeypatch, settings
):
    seen = Seen(monkeypatch)
    stopped = dataclasses.replace(tiny_config, kimg=1, **settings)
    monkeypatch.setattr("sg3flow.training.loop.TrainingLoop.run", lambda *_: bool(seen))
    out = train(stopped, tiny_set, run_dir=tmp_path / "out")
    assert seen == {Precision(**settings)}
    assert read_provenance(out)["precision"] == "exact float32"
    given = json.loads((out / "training_options.json").read_text())["resolved"]
    assert {name: given[name] for name in ("tf32", "cudnn_benchmark")} == {
        "tf32": False, "cudnn_benchmark": False, **settings,
    }  # fmt: skip
    assert "precision exact float32" in (out / "networks.txt").read_text()


def test_a_trial_of_the_batch_size_has_the_precision_of_the_training(tiny_config, monkeypatch):
    seen = Seen(monkeypatch)
    config = resolve(dataclasses.replace(tiny_config, tf32=True))
    assert batch_size_finder._measure(config, dict(SIZES)) > 0
    assert Precision(tf32=True) in seen


def test_images_are_rendered_exactly_inside_a_fast_training(monkeypatch):
    seen = Seen(monkeypatch)
    G = StyleGAN3Generator(8, 0, 8, 16, 3, channel_base=64, channel_max=4).eval()
    with computing(FAST):
        image = render_image(G, 1, RenderOptions())
    assert seen == {EXACT} and np.ptp(image) > 0


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "float16 in the highest resolutions, else exact float32"),
        ({"bf16": True}, "bfloat16 in the highest resolutions, else exact float32"),
        ({"fp32": True}, "exact float32"),
        ({"tf32": True}, "float16 in the highest resolutions, else TF32 in float32 layers"),
        ({"fp32": True, "cudnn_benchmark": True}, "exact float32, cuDNN benchmark"),
    ],
)
def test_the_words_of_each_precision(tiny_config, settings, words):
    config = dataclasses.replace(tiny_config, **settings)
    assert precision_words(config, CUDA) == words
    assert precision_words(config, torch.device("cpu")) == "exact float32"


def test_an_override_of_the_environment_is_named(tiny_config, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    words = precision_words(dataclasses.replace(tiny_config, fp32=True, tf32=False), CUDA)
    assert words == "exact float32 (NVIDIA_TF32_OVERRIDE=0 forbids TF32)"


def half_types(network):
    return {m.half_dtype for m in network.modules() if hasattr(m, "half_dtype")}


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan2"])
def test_bfloat16_reaches_whoever_loads_the_snapshot(cfg, tiny_config, tmp_path):
    from sg3flow.checkpoints import save_snapshot

    config = resolve(dataclasses.replace(tiny_config, cfg=cfg, bf16=True))
    parts = build(config, **SIZES, device=torch.device("cpu"))
    path = tmp_path / "network-snapshot-000001.pkl"
    training_set = {"name": "a", "resolution": 16, "channels": 3, "label_dim": 0}
    training_set |= {"num_images": 1, "digest": "", "mirror": False}
    networks = {"G": parts.G, "D": parts.D, "G_ema": parts.G_ema}
    save_snapshot(
        path, **networks, augment_p=0.0, training_set=training_set, progress={"nimg": 1000}
    )
    loaded = load_networks(str(path))
    for network in (loaded.G, loaded.D, loaded.G_ema, *networks.values()):
        assert half_types(network) == {torch.bfloat16}
        assert network.init_kwargs["half_dtype"] == "bfloat16"


def test_float16_is_not_written_into_a_snapshot(tiny_config):
    parts = build(resolve(tiny_config), **SIZES, device=torch.device("cpu"))
    for network in (parts.G, parts.D, parts.G_ema):
        assert half_types(network) == {torch.float16} and "half_dtype" not in network.init_kwargs


def test_an_unknown_half_type_is_refused():
    with pytest.raises(ValueError, match="half_dtype must be float16 or bfloat16, not float8"):
        StyleGAN3Generator(8, 0, 8, 16, 3, channel_base=64, channel_max=4, half_dtype="float8")
