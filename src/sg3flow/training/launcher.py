"""Start the processes of this machine as torchrun does, and stop them on signals.

On several machines, torchrun itself starts the same command on each (docs/many-gpus.md).
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
from typing import TYPE_CHECKING

from sg3flow import distributed
from sg3flow.errors import (
    ProcessLostError,
    Sg3flowError,
    TrainingInterruptedError,
    failure_kind,
)
from sg3flow.interrupts import answer, raise_interrupt
from sg3flow.resources import available_cpus
from sg3flow.settings import LAUNCHED

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

# Time limit from a stop request until the current step has ended and its state is saved.
_SHUTDOWN_SEC = 300


def launch(count: int, command: Sequence[str]) -> None:
    """Run ``python <command>`` in ``count`` processes with torchrun's environment variables.

    They write to the output of this process. An error in one of them stops all; so does a signal to
    this process, after the current step.

    Raises:
        Sg3flowError: the error of the first process that failed.
    """
    # Slow to import, and a training in one process needs only the signals.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[LAUNCHED.name] = "1"
    # Threads of several processes on the same cores would slow each other down.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(available_cpus() // count, 1)))
    for name in ("", ".agent.server.api"):  # the second has a level of its own
        logging.getLogger(f"torch.distributed.elastic{name}").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, stop_with_parent():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,  # the user runs the same command again to resume
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=_SHUTDOWN_SEC,
        )
        answer(_ENDING_STEP)
        try:
            elastic_launch(config, sys.executable)(*command)
        except SignalException:
            sys.exit(1)  # the main process has printed the message
        except ChildFailedError as error:
            raise _first_error(error.failures) from None


def _first_error(failures: "Mapping[int, ProcessFailure]") -> BaseException:
    """The error that stopped the others, whose ends are among the failures, too."""
    rank, failure = min(failures.items(), key=lambda item: (*_order(item[1]), item[0]))
    if failure_kind(failure.error_file_data) == TrainingInterruptedError.__name__:
        return SystemExit(1)  # the message has been printed
    if failure.exitcode < 0:
        return Sg3flowError(
            f"process {rank} was killed by {failure.signal_name()} (by the system if memory ran "
            "out); the others were stopped; run the same command again, a training resumes from "
            "its saved state"
        )
    return Sg3flowError(f"process {rank}: {failure.message}")


# What follows from the end of another process: the launcher's SIGTERM, and a lost connection.
_CONSEQUENCES = (TrainingInterruptedError.__name__, ProcessLostError.__name__)


def _order(failure: "ProcessFailure") -> tuple[int, int]:
    """Causes before consequences, then by time, in whole seconds."""
    kind = failure_kind(failure.error_file_data)
    if kind in _CONSEQUENCES:
        return 2 + _CONSEQUENCES.index(kind), failure.timestamp
    return int(failure.exitcode == -signal.SIGTERM), failure.timestamp


_ENDING_STEP = "the state is saved after the step, or the measurement, in progress"
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT, SIGTERM or SIGHUP has arrived.

    Until its first call, SIGINT interrupts at once: there is nothing to save. From then on, the
    first signal only requests a stop, so that the current step ends and its state is saved; a
    second SIGINT interrupts at once. The end of the parent process counts as a signal, too: see
    ``stop_with_parent``.
    """
    asked = polled = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        # With several processes, the launcher gets the second SIGINT and kills them.
        if number == signal.SIGINT and not distributed.is_launched():
            signal.signal(signal.SIGINT, raise_interrupt)
            if not polled:
                raise_interrupt(number, frame)
        asked = True

    def poll() -> bool:
        nonlocal polled
        if not polled:
            answer(_ENDING_STEP)
            polled = True
        return asked

    # An ignored signal stays ignored, for `nohup`.
    heeded = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in heeded}
    try:
        with stop_with_parent():
            yield poll
    finally:
        answer()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_with_parent() -> Iterator[None]:
    """Get a SIGTERM when DVC, or the launcher of several processes, ends (on Linux).

    Otherwise the training would continue beside the one that the next `dvc repro` starts.
    """
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
