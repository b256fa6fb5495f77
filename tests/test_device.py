"""Cards that cannot be used, or not as asked: each is one line with the next step.

Stand-ins take the place of the GPUs: functions of torch.cuda, and what the driver says.
"""

from types import SimpleNamespace

import pytest
import torch

from sg3flow import device, resources
from sg3flow.cli.stage_options import _describe
from sg3flow.cli.status import examine
from sg3flow.config import EvaluateImagesConfig, TrainConfig
from sg3flow.device import open_device, pick_device, unlike_gpus
from sg3flow.errors import ConfigError, Sg3flowError
from sg3flow.metrics.evaluation_run import check_processes
from sg3flow.rendering.images import load_model
from sg3flow.resources import NvidiaDriver
from sg3flow.serving.pyfunc_model import Predictor
from sg3flow.training import job
from sg3flow.training.training_run import train

A100 = SimpleNamespace(name="A100", major=8, minor=0, total_memory=80 << 30)
T4 = SimpleNamespace(name="T4", major=7, minor=5, total_memory=16 << 30)
RELEASED = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.fixture
def gpus(monkeypatch):
    """`gpus(A100, T4)`: what torch sees."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*cards, architectures=RELEASED):
        known = {
            "is_available": lambda: bool(cards),
            "device_count": lambda: len(cards),
            "set_device": lambda index: None,
            "get_arch_list": lambda: list(architectures),
            "get_device_properties": lambda index: cards[index],
            "get_device_name": lambda index: cards[index].name,
            "get_device_capability": lambda index: (cards[index].major, cards[index].minor),
        }
        for name, value in known.items():
            monkeypatch.setattr(torch.cuda, name, value)

    return install


@pytest.fixture
def too_old(gpus, monkeypatch):
    """A driver that is too old for this torch, which then sees no GPU."""
    gpus()
    monkeypatch.setattr(resources, "nvidia_driver", lambda: NvidiaDriver("470.57", (11, 4)))
    monkeypatch.setattr(torch.version, "cuda", "13.0")


def config(**settings):
    given = {"cfg": "stylegan3-t", "gpus": 1, "batch": 4, "gamma": 1.0} | settings
    return TrainConfig(**given)


def train_on(name, folder):
    train(config(device=name), folder / "no.zip", run_dir=folder / "out")


def compare_on(name, folder, monkeypatch):
    from sg3flow.metrics import evaluation_run

    images = SimpleNamespace(num_images=9, digest="")
    monkeypatch.setattr(evaluation_run, "ImageSet", lambda path: images)
    wanted = EvaluateImagesConfig(metrics=("swd",), device=name)
    evaluation_run.evaluate_images(wanted, folder, folder, None)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_driver_that_is_too_old_stops_every_command(too_old, tmp_path, monkeypatch, name):
    monkeypatch.setenv("SG3FLOW_DEVICE", name)
    commands = {
        "train": lambda: train_on(name, tmp_path),
        "evaluate": lambda: compare_on(name, tmp_path, monkeypatch),
        "render": lambda: load_model(str(tmp_path / "no.pkl"), name),
        "serve": lambda: Predictor.load(tmp_path / "no.safetensors", tmp_path / "no.json"),
    }
    for command, run in commands.items():
        with pytest.raises(ConfigError) as caught:
            run()
        message = str(caught.value)
        assert "driver 470.57, which is too old: it supports CUDA 11.4" in message, command
        assert "built for CUDA 13.0; update the driver" in message and "\n" not in message
    assert not any(tmp_path.iterdir())


def test_the_doctor_shows_a_driver_that_is_too_old(too_old, monkeypatch):
    monkeypatch.setenv("SG3FLOW_OPS", "torch")
    monkeypatch.setattr("sg3flow.cli.status.cuda_compiler", lambda: "none")
    assert any("470.57, which is too old" in line for line in examine())


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors might be", "other programs have all of"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nx", "has it for itself"),
        ("CUDA error: unknown error", "its driver does; restart the machine"),
    ],
)
@pytest.mark.parametrize("place", ["select", "use"])
def test_a_gpu_that_cannot_be_used_now_is_named(gpus, monkeypatch, said, cause, place):
    gpus(A100)

    def fails(*args, **kwargs):
        raise torch.AcceleratorError(said)

    assert issubclass(torch.AcceleratorError, RuntimeError)
    owner, name = (torch.cuda, "set_device") if place == "select" else (torch, "zeros")
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(ConfigError) as caught:
        open_device("auto")
    message = str(caught.value)
    assert message.startswith(f"the GPU A100 cannot be used now ({said.splitlines()[0]}): ")
    assert cause in message and "`nvidia-smi`" in message and "CUDA_VISIBLE_DEVICES" in message
    assert "\n" not in message


def test_a_usable_gpu_is_opened_and_the_cpu_needs_nothing(gpus, monkeypatch):
    gpus(A100)
    used = []
    monkeypatch.setattr(torch, "zeros", lambda size, device: used.append(device))
    assert open_device("auto") == torch.device("cuda", 0) == pick_device("cuda")
    assert used == [torch.device("cuda", 0)]
    assert open_device("cpu") == torch.device("cpu") and len(used) == 1


@pytest.mark.parametrize(
    ("capability", "architectures", "problem"),
    [
        ((6, 1), RELEASED, "needs 7.5 at least; install an older torch"),
        ((7, 5), RELEASED, ""),
        ((8, 9), RELEASED, ""),  # runs the code for 8.6
        ((10, 3), RELEASED, ""),
        ((11, 0), RELEASED, "has no code for it; install a newer torch"),
        ((12, 1), RELEASED, ""),
        ((13, 0), RELEASED, ""),  # compiled by the driver from compute_120
        ((13, 0), RELEASED[:-1], "has no code for it; install a newer torch"),
        ((9, 0), ["sm_75", "sm_90a"], ""),
        ((9, 1), ["sm_75", "sm_90a"], "has no code for it"),
        ((6, 1), [], ""),  # a torch that does not say
    ],
)
def test_torch_must_have_code_for_the_card(gpus, capability, architectures, problem):
    major, minor = capability
    card = SimpleNamespace(name="X", major=major, minor=minor, total_memory=1)
    gpus(card, architectures=architectures)
    if not problem:
        assert pick_device("auto") == torch.device("cuda", 0)
        return
    with pytest.raises(ConfigError, match=rf"GPU X has compute capability {major}\.{minor}, and"):
        pick_device("auto")
    with pytest.raises(ConfigError, match=problem):
        pick_device("auto")


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        (None, "1 CUDA devices are visible; lower it"),
        ("0,7", r"visible \(CUDA_VISIBLE_DEVICES=0,7\); lower it"),
        ("MIG-1,MIG-2", r"=MIG-1,MIG-2; a process can use one MIG slice only\); lower it"),
    ],
)
def test_too_few_gpus_and_what_hides_them(gpus, monkeypatch, visible, words):
    gpus(A100)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match=f"train.gpus is 2, and .*{words}"):
        job._check_device(torch.device("cuda", 0), config(gpus=2))
    with pytest.raises(ConfigError, match=f"evaluate.gpus is 2, and .*{words}"):
        check_processes(2, "auto")


def test_hidden_gpus_are_no_error_unless_one_is_asked_for(gpus, monkeypatch):
    gpus()
    monkeypatch.setattr(resources, "nvidia_driver", lambda: NvidiaDriver("580.1", (13, 0)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"visible to torch \(CUDA_VISIBLE_DEVICES=\); choose"):
        pick_device("cuda")


def test_unlike_gpus_are_a_warning_of_one_line(gpus, capsys, monkeypatch):
    gpus(A100, A100, T4)
    assert unlike_gpus(2) == ""
    job.warn_of_unlike_gpus(3)
    said = capsys.readouterr().err
    assert said.startswith("warning: the GPUs differ (A100, 80 GiB, capability 8.0; A100, 80 GiB")
    assert "T4, 16 GiB, capability 7.5): all wait for the slowest" in said
    assert said.count("\n") == 1


def test_only_the_main_process_of_several_warns_of_unlike_gpus(gpus, capsys, monkeypatch):
    gpus(A100, T4)
    monkeypatch.setattr(device.distributed, "is_launched", lambda: True)
    for is_main in (False, True):
        monkeypatch.setattr(device.distributed, "is_main_process", lambda value=is_main: value)
        job._check_device(torch.device("cuda", 0), config(gpus=2))
        assert ("the GPUs differ" in capsys.readouterr().err) is is_main


def test_a_gpu_that_fails_during_the_work_is_no_bug_of_ours():
    error = torch.AcceleratorError("CUDA error: an illegal memory access\nFor debugging")
    message = _describe(error)
    assert message.startswith("the GPU failed (CUDA error: an illegal memory access); run the same")
    assert not isinstance(error, Sg3flowError) and "\n" not in message
