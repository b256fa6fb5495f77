"""Processes that read images ahead, and the error when one of them fails."""

import os
import resource
import signal
import time

import psutil
import pytest
import torch

from sg3flow import distributed
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import (
    TrainingSet,
    WindowedShuffle,
    endless_batches,
    report_killed_workers,
    training_batches,
)
from sg3flow.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def batches_of(path):
    items = TrainingSet(PackedSet(path))
    sampler = WindowedShuffle(len(items), 0)
    return endless_batches(items, sampler, 16, workers=1, pin_memory=False)


def test_mirrored_images_follow_the_others_with_their_labels(tiny_set):
    packed = PackedSet(tiny_set)
    items = TrainingSet(packed, mirror=True, labels=True)
    assert (len(items), len(TrainingSet(packed)), items.label_dim) == (48, 24, 3)
    for i in (0, 7):
        (image, label), (mirrored, same) = items[i], items[24 + i]
        assert torch.equal(image, torch.from_numpy(packed.image(i).transpose(2, 0, 1)))
        assert torch.equal(mirrored, image.flip(2)) and not torch.equal(mirrored, image)
        assert label.tolist() == same.tolist() == items.label(24 + i).tolist()
        assert label.tolist() == [float(i % 3 == k) for k in range(3)]
    assert TrainingSet(packed)[0][1].shape == (0,)


def test_processes_take_turns_within_a_batch(tiny_set, monkeypatch):
    items = TrainingSet(PackedSet(tiny_set), labels=True)

    def batch_of(rank: int, count: int) -> torch.Tensor:
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: count)
        return next(training_batches(items, 0, 4, 8, workers=0, pin_memory=False))[0]

    whole = batch_of(0, 1)
    assert torch.equal(batch_of(0, 2), whole[::2]) and torch.equal(batch_of(1, 2), whole[1::2])


def test_too_little_shared_memory_is_an_error(tiny_set):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # less than a batch
    try:
        batches = batches_of(tiny_set)  # its reader is forked here and keeps the limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(
        DataError, match=r"shared memory is too small .*--shm-size 8g\) or pass --workers 0"
    ):
        next(batches)


@pytest.mark.medium
def test_a_reader_that_the_system_kills_is_an_error(tiny_set):
    before = set(psutil.Process().children())
    batches = batches_of(tiny_set)
    next(batches)
    (reader,) = set(psutil.Process().children()) - before
    with (
        pytest.raises(DataError, match=r"a data loading process was killed, .*the same comm"),
        report_killed_workers(),
    ):
        os.kill(reader.pid, signal.SIGKILL)
        time.sleep(60)  # torch interrupts whatever happens here
