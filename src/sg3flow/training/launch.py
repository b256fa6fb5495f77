"""Several training processes on this machine, started through torchrun's own machinery.

For several machines, torchrun itself starts the same command on each (docs/many-gpus.md).
"""

import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sg3flow.errors import Interrupted, ProcessLost, Sg3flowError
from sg3flow.launched import LAUNCHED, failure_kind
from sg3flow.limits import available_cpus
from sg3flow.training.interrupt import stop_with_parent

# Between the wish to stop and the end of a step that is under way and of saving its state.
_SHUTDOWN_SEC = 300


def launch(count: int, command: Sequence[str]) -> None:
    """Run ``python <command>`` in ``count`` processes that find each other by torchrun's variables.

    They write to this one's output. The end of one with an error ends them all, and so does a
    signal to this process, after the step under way.

    Raises:
        Sg3flowError: what ended the first of them.
    """
    os.environ[LAUNCHED] = "1"
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
            failure_kind(failure.error_file_data) == ProcessLost.__name__,
            failure.timestamp,
            rank,
        )

    rank, failure = min(failures.items(), key=order)
    if failure_kind(failure.error_file_data) == Interrupted.__name__:
        return SystemExit(1)  # said already
    if failure.exitcode < 0:
        return Sg3flowError(
            f"process {rank} was ended by {failure.signal_name()} (by the system, if memory ran "
            "out); the others were stopped; the same command goes on from the saved state"
        )
    return Sg3flowError(f"process {rank}: {failure.message}")
