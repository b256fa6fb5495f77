"""Processes that have joined a gloo group, without a launcher and without importing torch again.

A server that has imported the package forks them, so that a process costs a fraction of a second.
For tests whose subject is what the processes compute together, and not how they are started.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_SERVER = multiprocessing.get_context("forkserver")
_PRELOADED = [
    "joined_processes",
    "sg3flow.cli.stage_commands",
    "sg3flow.metrics.evaluation_run",
    "sg3flow.tracking.upload_process",
    "sg3flow.training.training_run",
]
_TIMEOUT_SEC = 300


@dataclass(frozen=True)
class Ended:
    """An ended process: its exit code, what it printed, and what its function returned."""

    exitcode: int
    output: str
    result: Any


def run_joined(
    count: int,
    function: Callable[..., Any],
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
) -> list[Ended]:
    """Call a function of a test module in ``count`` processes, with the variables of torchrun.

    The function joins the group itself, as a training does.

    Returns:
        The processes by their number.
    """
    _SERVER.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        shared = dict(environment or {}) | {
            "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(_free_port()),
            "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        started = []
        for rank in range(count):
            own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            place = Path(folder) / str(rank)
            process = _SERVER.Process(target=_main, args=(own, place, function, arguments))
            process.start()
            started.append((process, place))
        ended = []
        for process, place in started:
            process.join(_TIMEOUT_SEC)
            if process.exitcode is None:
                process.kill()
                process.join()
            result = place.with_suffix(".pt")
            ended.append(
                Ended(
                    process.exitcode,
                    place.with_suffix(".txt").read_text(),
                    torch.load(result, weights_only=True) if result.exists() else None,
                )
            )
            process.close()
        return ended


def results_of(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function returns in each of ``count`` processes."""
    ended = run_joined(count, function, *arguments)
    assert all(each.exitcode == 0 for each in ended), "\n".join(each.output for each in ended)
    return [each.result for each in ended]


def _main(
    environment: dict[str, str], place: Path, function: Callable[..., Any], arguments: tuple
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    output = os.open(place.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    with contextlib.ExitStack() as stack:
        stack.callback(sys.stdout.flush)
        try:
            result = function(*arguments)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        torch.save(result, place.with_suffix(".pt"))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port
