"""Memory: what is reported, what a person is told, and the largest pass that fits."""

import dataclasses
import json

import pytest
import torch

from sg3flow.config import AUTO
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet
from sg3flow.errors import ConfigError, OutOfMemory
from sg3flow.training import fit, loop
from sg3flow.training.build import resolve
from sg3flow.training.fit import largest_fitting, remembered_batch_gpu
from sg3flow.training.memory import memory_stats, out_of_memory_advice
from sg3flow.training.run import train

CPU = torch.device("cpu")


def test_the_advice_names_what_to_lower(tiny_config):
    config = resolve(dataclasses.replace(tiny_config, batch=16, mbstd_group=4))
    with (
        pytest.raises(OutOfMemory, match=r"a step of 16 images.*--batch-gpu 8 "),
        out_of_memory_advice(config, CPU),
    ):
        torch.empty(2**60)  # more than there is
    smallest = dataclasses.replace(config, batch_gpu=4)
    with (
        pytest.raises(OutOfMemory, match=r"smaller --cbase \(now 256\).*half the resolution"),
        out_of_memory_advice(smallest, CPU),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. See documentation")
    with pytest.raises(RuntimeError, match="another matter"), out_of_memory_advice(config, CPU):
        raise RuntimeError("another matter")


def test_a_training_that_does_not_fit_says_so_and_keeps_its_state(
    tiny_config, tiny_set, tmp_path, monkeypatch
):
    def too_much(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(loop, "run_step", too_much)
    with pytest.raises(OutOfMemory, match="does not fit into the memory of cpu"):
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

    assert largest_fitting([4, 8, 16, 32], trial, room, check=False) == wanted
    assert tried == ([4, 8] if room >= 100 else [4])


def test_a_choice_is_checked_where_trying_is_safe():
    def trial(size: int) -> int | None:
        return 10 * size if size < 32 else None

    assert largest_fitting([4, 8, 16, 32], trial, 1e9, check=True) == 16
    with pytest.raises(OutOfMemory, match="not even 4 images"):
        largest_fitting([4, 8], lambda size: None, 1e9, check=True)


def test_auto_is_tried_out_once_and_then_remembered(tiny_config, tiny_set, tmp_path, monkeypatch):
    config = resolve(dataclasses.replace(tiny_config, batch=8, mbstd_group=4, batch_gpu=AUTO))
    items = TrainingSet(PackedSet(tiny_set))
    memo = tmp_path / "memo.json"
    # Real steps in processes of their own: both sizes fit on any machine that runs tests.
    assert remembered_batch_gpu(config, items, memo) == 8
    assert json.loads(memo.read_text()) == {"batch_gpu": 8}
    memo.write_text('{"batch_gpu": 4}')
    monkeypatch.setattr(fit, "largest_fitting", lambda *a: pytest.fail("tried again"))
    assert remembered_batch_gpu(config, items, memo) == 4


def test_auto_still_wants_a_batch_that_can_be_split(tiny_config):
    with pytest.raises(ConfigError, match="multiple of gpus"):
        resolve(dataclasses.replace(tiny_config, batch=6, mbstd_group=4, batch_gpu=AUTO))
