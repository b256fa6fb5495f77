"""Runs programs that may hang: one that stops working is ended within seconds, with its children.

A compiler at work takes processor time all the while, however slow the machine. One that waits for
something that will not come takes none; so does a build whose files another process has locked
without working on it. Both are told apart from slow ones by that alone.
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

# Tells whoever waits for this process's lock that it is at work.
Heartbeat = Callable[[], None]


def limit_sec() -> float:
    """Seconds a build may take: ``SG3FLOW_BUILD_SEC``, or ten minutes."""
    return BUILD_SEC.seconds()


def stall_sec() -> float:
    """Seconds without any work after which a program counts as hung: ``SG3FLOW_STALL_SEC``."""
    return STALL_SEC.seconds()


def run_watched(
    command: Sequence[str], folder: Path, heartbeat: Heartbeat, most_sec: float | None = None
) -> tuple[int, str]:
    """Exit status and output (both streams) of a program that works in ``folder``.

    Args:
        beat: called whenever the program, or one that it started, was seen at work.
        most_sec: how long it may take; None: as long as a build.

    Raises:
        ConfigError: it does not run, hung or took too long; nothing of it runs on.
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
        now, seen = time.monotonic(), _processor_sec(process.pid)
        if seen != used:
            used, moved = seen, now
            heartbeat()
        if now - moved > stall_sec():
            raise ConfigError(
                f"{_busiest(process)} hung: it did nothing for {stall_sec():.0f} s; install it "
                "again (SG3FLOW_STALL_SEC allows more, for compilers that work elsewhere)"
            )
        if now - start > most_sec:
            raise ConfigError(
                f"{_busiest(process)} did not finish in {most_sec:.0f} s; is the machine out of "
                "memory, or the compiler broken? (SG3FLOW_BUILD_SEC allows more)"
            )


def _processor_sec(pid: int) -> float:
    """Processor time of a process and of all that it started, ended ones included."""
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


def _busiest(process: subprocess.Popen[bytes]) -> str:
    """The program that is waited for: the last in the line of those that were started."""
    with suppress(psutil.Error, IndexError):
        command: list[str] = _family(process.pid)[-1].cmdline()
        return " ".join(command)[:80]
    return "the compiler"


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started: they are a session of their own."""
    with suppress(ProcessLookupError):
        process.kill()  # before the others, or it would start more
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
    """Wait until no other process holds ``path``, as long as the one that does is at work.

    The lock ends with its owner, however that ends. The block calls what it gets to show that it
    is at work.

    Raises:
        ConfigError: another process holds the lock and does nothing, or takes too long.
        OSError: the file cannot be written, or its file system has no locks.
    """
    lock, holder = file_lock(path), _Holder(path)
    try:
        held = lock.acquire(poll_interval=_POLL_SEC, cancel_check=holder.is_idle)
    except Timeout:
        raise ConfigError(
            f"another process holds {path} and builds nothing; end it, then run "
            "'sg3flow doctor --rebuild'"
        ) from None
    with held:
        yield lambda: os.utime(path)


class _Holder:
    """The process that holds a lock, as its beats tell of it: the times of the lock's file."""

    def __init__(self, path: Path) -> None:
        self.path, self.beaten, self.is_told = path, _with_heartbeat(path), False
        self.start = self.moved = time.monotonic()

    def is_idle(self) -> bool:
        """Whether waiting has become useless; asked again and again while the lock is held."""
        now, seen = time.monotonic(), _with_heartbeat(self.path)
        if seen != self.beaten:
            self.beaten, self.moved = seen, now
        if not self.is_told and now - self.start > _QUIET_SEC:
            self.is_told = True
            print("waiting for the kernels that another process builds", file=sys.stderr)
        return now - self.moved > stall_sec() or now - self.start > limit_sec()


def _with_heartbeat(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0
