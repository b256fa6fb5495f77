"""Several training processes on this machine, started through torchrun's own machinery.

For several machines, torchrun itself starts the same command on each (docs/many-gpus.md).
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sg3flow import distributed
from sg3flow.errors import (
    ProcessLostError,
    Sg3flowError,
    TrainingInterruptedError,
    failure_kind,
)
from sg3flow.resources import available_cpus
from sg3flow.settings import LAUNCHED

# Between the wish to stop and the end of a step that is under way and of saving its state.
_SHUTDOWN_SEC = 300


def launch(count: int, command: Sequence[str]) -> None:
    """Run ``python <command>`` in ``count`` processes that find each other by torchrun's variables.

    They write to this one's output. The end of one with an error ends them all, and so does a
    signal to this process, after the step under way.

    Raises:
        Sg3flowError: what ended the first of them.
    """
    os.environ[LAUNCHED.name] = "1"
    # Each process with all cores would have them wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(available_cpus() // count, 1)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, stop_with_parent():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,  # the same command again goes on
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=_SHUTDOWN_SEC,
        )
        try:
            elastic_launch(config, sys.executable)(*command)
        except SignalException:
            sys.exit(1)  # the first process has said how far it came
        except ChildFailedError as error:
            raise _first_error(error.failures) from None


def _first_error(failures: Mapping[int, ProcessFailure]) -> BaseException:
    """What went wrong first: others that only lost touch with that one do not count."""

    def order(item: tuple[int, ProcessFailure]) -> tuple[bool, int, int]:
        rank, failure = item
        return (
            failure_kind(failure.error_file_data) == ProcessLostError.__name__,
            failure.timestamp,
            rank,
        )

    rank, failure = min(failures.items(), key=order)
    if failure_kind(failure.error_file_data) == TrainingInterruptedError.__name__:
        return SystemExit(1)  # said already
    if failure.exitcode < 0:
        return Sg3flowError(
            f"process {rank} was ended by {failure.signal_name()} (by the system, if memory ran "
            "out); the others were stopped; the same command goes on from the saved state"
        )
    return Sg3flowError(f"process {rank}: {failure.message}")


_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether SIGINT, SIGTERM or SIGHUP has come.

    The first signal is remembered, so that the step under way can end and its state be saved; a
    second SIGINT interrupts at once. An orphan would go on training beside the one that the next
    `dvc repro` starts: see ``stop_with_parent``.
    """
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        # The launcher of several processes passes on what the terminal has sent them already.
        if not distributed.is_launched():
            signal.signal(signal.SIGINT, signal.default_int_handler)

    # One that is ignored stays so: `nohup` means it.
    heeded = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in heeded}
    try:
        with stop_with_parent():
            yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_with_parent() -> Iterator[None]:
    """Take the death of DVC, or of the launcher of several processes, as a SIGTERM (on Linux)."""
    follows = "DVC_STAGE" in os.environ or distributed.is_launched()
    if follows:
        _follow_parent(signal.SIGTERM)
    try:
        yield
    finally:
        if follows:
            _follow_parent(0)


def _follow_parent(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
