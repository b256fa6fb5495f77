"""Processes that read images ahead, and the error when one of them fails."""

import os
import resource
import signal
import time

import psutil
import pytest

from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import (
    TrainingSet,
    WindowedShuffle,
    endless_batches,
    report_killed_workers,
)
from sg3flow.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def batches_of(path):
    items = TrainingSet(PackedSet(path))
    sampler = WindowedShuffle(len(items), 0)
    return endless_batches(items, sampler, 16, workers=1, pin_memory=False)


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
