"""The watchdog of builds: runs compilers, and kills one that hangs, with its child processes.

A build that uses no CPU time for 10 s counts as hung and is killed; a slow one is not. In the same
way, waiting for another process's lock ends when its owner has been idle for 10 s.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import Timeout

from sg3flow.errors import ConfigError
from sg3flow.files import file_lock
from sg3flow.settings import BUILD_SEC, STALL_SEC

_POLL_SEC = 0.1
_QUIET_SEC = 2.0

# Call it while working: processes that wait for the lock of this one see it.
Heartbeat = Callable[[], None]


def limit_sec() -> float:
    """Time limit of a build in seconds: ``SG3FLOW_BUILD_SEC``, by default ten minutes."""
    return BUILD_SEC.seconds()


def stall_sec() -> float:
    """Seconds without CPU time after which a program counts as hung: ``SG3FLOW_STALL_SEC``."""
    return STALL_SEC.seconds()


def run_watched(
    command: Sequence[str], folder: Path, heartbeat: Heartbeat, most_sec: float | None = None
) -> tuple[int, str]:
    """Run a program in ``folder``; its exit status and its output (both streams).

    Args:
        heartbeat: called whenever the program, or a child of it, has used CPU time.
        most_sec: time limit; None: that of a build.

    Raises:
        ConfigError: the program does not run, hung or took too long; it has been killed.
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
            code = _watch(process, heartbeat, limit_sec() if most_sec is None else most_sec)
        finally:
            _end_session(process)
        stream.seek(0)
        return code, stream.read()


def _watch(process: subprocess.Popen[bytes], heartbeat: Heartbeat, most_sec: float) -> int:
    start = moved = time.monotonic()
    used = 0.0
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_SEC)
        now, seen = time.monotonic(), _cpu_sec(process.pid)
        if seen != used:
            used, moved = seen, now
            heartbeat()
        if now - moved > stall_sec():
            raise ConfigError(
                f"{_last_child(process)} hung: no CPU time for {stall_sec():.0f} s; install it "
                "again (SG3FLOW_STALL_SEC allows more, for compilers that run on another machine)"
            )
        if now - start > most_sec:
            raise ConfigError(
                f"{_last_child(process)} did not finish in {most_sec:.0f} s; is the machine out of "
                "memory, or the compiler broken? (SG3FLOW_BUILD_SEC allows more)"
            )


def _cpu_sec(pid: int) -> float:
    """CPU time of a process and of all its children, ended ones included."""
    total = 0.0
    for process in _family(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _last_child(process: subprocess.Popen[bytes]) -> str:
    """The command of the most recently started child process."""
    with suppress(psutil.Error, IndexError):
        command: list[str] = _family(process.pid)[-1].cmdline()
        return " ".join(command)[:80]
    return "the compiler"


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and all its children; they share a session."""
    with suppress(ProcessLookupError):
        process.kill()  # first, so that it starts no more
    process.wait()
    for _ in range(3):
        left = [pid for pid in psutil.pids() if _session_of(pid) == process.pid]
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _session_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


@contextmanager
def locked(path: Path) -> Iterator[Heartbeat]:
    """Hold the lock ``path``; wait while another process holds it and is working.

    The system releases the lock when its owner ends. The block calls the heartbeat to show that it
    is working.

    Raises:
        ConfigError: another process holds the lock and is idle, or takes too long.
        OSError: the file cannot be written, or its file system has no locks.
    """
    lock, owner = file_lock(path), _Owner(path)
    try:
        held = lock.acquire(poll_interval=_POLL_SEC, cancel_check=owner.is_idle)
    except Timeout:
        raise ConfigError(
            f"another process holds {path} and is idle; end it, then run 'sg3flow doctor --rebuild'"
        ) from None
    with held:
        yield lambda: os.utime(path)


class _Owner:
    """The process that holds a lock; its heartbeats are the modification times of the file."""

    def __init__(self, path: Path) -> None:
        self.path, self.last_beat, self.is_shown = path, _last_heartbeat(path), False
        self.start = self.moved = time.monotonic()

    def is_idle(self) -> bool:
        """Whether to stop waiting; called repeatedly while the lock is held."""
        now, seen = time.monotonic(), _last_heartbeat(self.path)
        if seen != self.last_beat:
            self.last_beat, self.moved = seen, now
        if not self.is_shown and now - self.start > _QUIET_SEC:
            self.is_shown = True
            print("waiting for another process that builds the kernels", file=sys.stderr)
        return now - self.moved > stall_sec() or now - self.start > limit_sec()


def _last_heartbeat(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0
