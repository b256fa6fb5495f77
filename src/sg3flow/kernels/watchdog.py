"""The watchdog of builds: runs compilers, and kills one that takes too long, with its children.

Only the time on the clock counts: a program that uses no CPU time may be waiting for a slow disk.
The rules of who may build, and who waits meanwhile, are here, too.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sg3flow.errors import ConfigError
from sg3flow.files import file_lock
from sg3flow.progress import elapsed_shown
from sg3flow.settings import BUILD_SEC

_POLL_SEC = 0.1
_QUIET_SEC = 2.0
_PROCESSES = Path("/proc")


def limit_sec() -> float:
    """Time limit of a build in seconds: ``SG3FLOW_BUILD_SEC``, by default ten minutes."""
    return BUILD_SEC.seconds()


def run_watched(
    command: Sequence[str],
    folder: Path,
    poll: Callable[[], None] = lambda: None,
    most_sec: float | None = None,
) -> tuple[int, str]:
    """Run a program in ``folder``; its exit status and its output (both streams).

    Args:
        poll: called several times a second while the program runs.
        most_sec: time limit; None: that of a build.

    Raises:
        ConfigError: the program does not run, or took too long; it has been killed.
    """
    log = folder / "output.log"
    with log.open("w+", encoding="utf-8", errors="replace") as stream:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(f"{command[0]} does not run ({error.strerror})") from None
        try:
            code = _watch(process, poll, limit_sec() if most_sec is None else most_sec)
        finally:
            _end_session(process)
        stream.seek(0)
        return code, stream.read()


def _watch(process: subprocess.Popen[bytes], poll: Callable[[], None], most_sec: float) -> int:
    start = time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_SEC)
        poll()
        if time.monotonic() - start > most_sec:
            raise ConfigError(
                f"{_last_child(process)} did not finish in {most_sec:.0f} s; is the machine out of "
                "memory, or the compiler broken? (SG3FLOW_BUILD_SEC allows more)"
            )


def _last_child(process: subprocess.Popen[bytes]) -> str:
    """The command of the most recently started child process."""
    with suppress(OSError, ValueError):
        command = (_PROCESSES / str(max(_session(process.pid))) / "cmdline").read_bytes()
        if shown := command.replace(b"\0", b" ").decode(errors="replace").strip():
            return shown[:80]
    return "the compiler"


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and all its children: one session, but ninja gives each its own group."""
    with suppress(ProcessLookupError):
        process.kill()  # first, so that it starts no more
    process.wait()
    for _ in range(3):
        for pid in _session(process.pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _session(leader: int) -> list[int]:
    """The processes of a session."""
    pids = [int(path.name) for path in _PROCESSES.glob("[0-9]*")]
    return [pid for pid in pids if _session_of(pid) == leader]


def _session_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


def refuse_in_workers() -> None:
    """Raise ConfigError in a process of a torch DataLoader: each would wait, and use few ops."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        raise ConfigError("kernels are not built in a data loading process")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock ``path``; wait while another process holds it, for as long as a build may take.

    The system releases the lock when its owner ends.

    Raises:
        ConfigError: another process holds the lock for too long.
        OSError: the file cannot be written, or its file system has no locks.
    """
    from filelock import Timeout

    lock, start = file_lock(path), time.monotonic()

    def is_late() -> bool:
        return time.monotonic() - start > limit_sec()

    with elapsed_shown("waiting for another process that builds the kernels", _QUIET_SEC):
        try:
            held = lock.acquire(poll_interval=_POLL_SEC, cancel_check=is_late)
        except Timeout:
            raise ConfigError(
                f"another process has held {path} for {limit_sec():.0f} s; end it and try again "
                "(SG3FLOW_BUILD_SEC allows more)"
            ) from None
    with held:
        yield
