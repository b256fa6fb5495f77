"""Memory: statistics, advice when it runs out, and the batch-size finder."""

import dataclasses
import json
import signal
import subprocess
import sys

import pytest
import torch

from sg3flow import resources
from sg3flow.config import AUTO
from sg3flow.errors import ConfigError, Sg3flowError, TrainingInterruptedError, TrainingMemoryError
from sg3flow.training import batch_size_finder, step
from sg3flow.training.assembly import resolve, select
from sg3flow.training.batch_size_finder import (
    MemorySettings,
    batch_gpu_candidates,
    cached_batch_gpu,
    is_out_of_memory,
    largest_fitting_batch,
    memory_stats,
    memory_warning,
    out_of_memory_advice,
    step_trial,
)
from sg3flow.training.training_run import train
from sg3flow.training.work_folder import open_run_folder

CPU = torch.device("cpu")
FORM = {"resolution": 16, "channels": 3, "c_dim": 0}


def test_memory_that_other_programs_use_is_named(tiny_config, monkeypatch):
    config = select(MemorySettings, resolve(tiny_config))
    cuda, gib = torch.device("cuda", 0), 1 << 30
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * gib)
    for free, words in ((30, "other programs use 40.0 of its 80.0 GiB"), (65, "")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, n=free: (n * gib, 80 * gib))
        with (
            pytest.raises(TrainingMemoryError) as caught,
            out_of_memory_advice(config, cuda, None),
        ):
            raise torch.OutOfMemoryError("CUDA out of memory. See documentation")
        assert words in str(caught.value) and ("other programs" in str(caught.value)) is bool(words)


def test_the_advice_names_what_to_lower_and_how_to_go_on(tiny_config, tmp_path):
    config = resolve(dataclasses.replace(tiny_config, batch=16, mbstd_group=4))
    config = select(MemorySettings, config)
    folder = open_run_folder(tmp_path, "key", 10_000)
    with (
        pytest.raises(
            TrainingMemoryError, match=r"pass of 16 images.*--batch-gpu 8 .* starts from zero$"
        ),
        out_of_memory_advice(config, CPU, folder),
    ):
        torch.empty(2**60)
    (folder.work / "network-snapshot-000004.pkl").write_bytes(b"")
    with (
        pytest.raises(
            TrainingMemoryError, match=r"--batch-gpu 8 .*--resume .*snapshot-000004\.pkl "
        ),
        out_of_memory_advice(config, CPU, folder),
    ):
        torch.empty(2**60)  # more than there is
    smallest = dataclasses.replace(config, batch_gpu=4)
    with (
        pytest.raises(
            TrainingMemoryError, match=r"smaller --cbase \(now 256\).*half the resolution"
        ),
        out_of_memory_advice(smallest, CPU, folder),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. See documentation")
    with (
        pytest.raises(RuntimeError, match="another matter"),
        out_of_memory_advice(config, CPU, None),
    ):
        raise RuntimeError("another matter")
    folder.close()


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_the_errors_of_torch_that_mean_no_memory(error, is_memory):
    assert is_out_of_memory(error) is is_memory


def test_a_low_host_beside_a_gpu_wants_fewer_readers(tiny_config, tmp_path, monkeypatch, capsys):
    folder = open_run_folder(tmp_path, "key", 10_000)
    config = select(MemorySettings, dataclasses.replace(resolve(tiny_config), workers=3))
    gpu = torch.device("cuda")
    assert not memory_warning(config, gpu, folder)
    monkeypatch.setattr(batch_size_finder, "free_memory", lambda: 2**20)
    assert memory_warning(config, gpu, folder) and memory_warning(config, CPU, folder)
    on_gpu, on_cpu = capsys.readouterr().err.splitlines()
    assert "fewer --workers (now 3)" in on_gpu and "--cbase" in on_cpu
    folder.close()


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    whole = resources.total_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert resources.total_memory() == whole
    (tmp_path / "memory.max").write_text("67108864\n")
    (tmp_path / "memory.current").write_text("60000000\n")
    # files that were read may be dropped again
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000000\n")
    assert resources.total_memory() == 2**26
    assert resources.free_memory() == 2**26 - 10_000_000


def test_a_training_that_does_not_fit_says_so_and_keeps_its_state(
    tiny_config, tiny_set, tmp_path, monkeypatch
):
    def too_much(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(step, "run_step", too_much)
    with pytest.raises(TrainingMemoryError, match="does not fit into the memory of cpu"):
        train(tiny_config, tiny_set, run_dir=tmp_path / "out")
    assert (tmp_path / "out" / "network-snapshot-000000.pkl").exists()


def test_what_is_reported_is_in_gib():
    stats = memory_stats(CPU)
    assert 0.05 < stats["Resources/cpu_mem_gb"] <= stats["Resources/peak_cpu_mem_gb"] < 1000


@pytest.mark.parametrize(
    ("room", "wanted"), [(100, 4), (139, 4), (141, 8), (219, 8), (221, 16), (379, 16), (381, 32)]
)
def test_the_largest_that_fits_is_found_from_two_trials(room, wanted):
    tried = []

    def trial(size: int) -> int:
        tried.append(size)
        return 60 + 10 * size

    assert largest_fitting_batch([4, 8, 16, 32], trial, room, check=False) == wanted
    assert tried == ([4, 8] if room >= 100 else [4])


def test_a_choice_is_checked_where_trying_is_safe():
    def trial(size: int) -> int | None:
        return 10 * size if size < 32 else None

    assert largest_fitting_batch([4, 8, 16, 32], trial, 1e9, check=True) == 16
    with pytest.raises(TrainingMemoryError, match="pass of 4 images, the smallest, does not fit"):
        largest_fitting_batch([4, 8], lambda size: None, 1e9, check=True)


@pytest.mark.medium
def test_auto_is_measured_once_and_then_remembered(tiny_config, tmp_path, monkeypatch):
    config = resolve(dataclasses.replace(tiny_config, batch=8, mbstd_group=4, batch_gpu=AUTO))
    trial = step_trial(dataclasses.asdict(config), FORM)
    memo = tmp_path / "memo.json"
    # Real steps in separate processes: both sizes fit on any machine that runs tests.
    assert cached_batch_gpu([4, 8], trial, CPU, memo) == 8
    assert json.loads(memo.read_text()) == {"batch_gpu": 8}
    memo.write_text('{"batch_gpu": 4}')
    monkeypatch.setattr(
        batch_size_finder, "largest_fitting_batch", lambda *a: pytest.fail("tried again")
    )
    assert cached_batch_gpu([4, 8], trial, CPU, memo) == 4


@pytest.mark.medium
def test_a_trial_that_fails_is_not_one_that_does_not_fit(tiny_config, tmp_path, monkeypatch):
    config = resolve(dataclasses.replace(tiny_config, batch=8, batch_gpu=AUTO))
    monkeypatch.setenv("SG3FLOW_OPS", "none such")
    memo = tmp_path / "memo.json"
    with pytest.raises(Sg3flowError, match=r"trial step of 4 images failed \(.*none"):
        cached_batch_gpu([4, 8], step_trial(dataclasses.asdict(config), FORM), CPU, memo)
    assert not memo.exists()


def test_a_trial_that_the_system_kills_is_too_large_but_not_one_that_the_user_stops():
    def ended(number: int) -> "subprocess.CompletedProcess[str]":
        code = f"import os; os.kill(os.getpid(), {number:d})"
        return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)

    assert batch_size_finder._taken(4, ended(signal.SIGKILL)) is None
    with pytest.raises(TrainingInterruptedError, match="measures it again"):
        batch_size_finder._taken(4, ended(signal.SIGTERM))


def test_the_sizes_of_auto_split_the_batch_of_a_process_and_hold_whole_groups():
    assert batch_gpu_candidates(48, 2, 4) == [4, 8, 12, 24]
    assert batch_gpu_candidates(8, 2, 4) == [4]


def test_auto_still_wants_a_batch_that_can_be_split(tiny_config):
    with pytest.raises(ConfigError, match="multiple of gpus"):
        resolve(dataclasses.replace(tiny_config, batch=6, mbstd_group=4, batch_gpu=AUTO))
