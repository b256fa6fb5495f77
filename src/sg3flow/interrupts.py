"""Ctrl-C: answered at once, whatever the process is doing; a second one ends it within a second.

Python runs the handler of a signal between two bytecodes of the main thread, so an operation of
torch that takes a minute would delay it. But Python's C code writes the number of the signal to a
pipe at once (``signal.set_wakeup_fd``), and a thread reads it here. Little is imported: the handler
must be there soon.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGINT

_INTERRUPTED = "error: interrupted; run the same command again to continue"
_AGAIN = "press Ctrl-C again to end at once"
# The command ends this long after the second Ctrl-C, if it has not ended by itself.
_GRACE_SEC = 0.5

_action = "stopping"
_has_raised = _has_said = False


@contextmanager
def handled_interrupts() -> Iterator[None]:
    """Answer Ctrl-C while the block runs: the whole work of a process.

    A first one raises KeyboardInterrupt as usual, or what a handler of the block does; then the
    process ends with one line. An ignored SIGINT stays ignored, for `nohup`.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, raise_interrupt)
    if _speaks():
        _start_thread()
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != EXIT_CODE:
            raise
        say_interrupted()
        sys.exit(EXIT_CODE)
    finally:
        # After an interrupt the interpreter ends, which takes a while: a second one must not print
        # a traceback.
        signal.signal(signal.SIGINT, _end_at_once if _has_raised else handler)
        if not _has_raised:
            stop_answering()


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of SIGINT: as Python's own, and ``has_raised_interrupt`` remembers it."""
    global _has_raised
    _has_raised = True
    raise KeyboardInterrupt


def has_raised_interrupt() -> bool:
    """Whether a KeyboardInterrupt was raised; a module that was being imported may hide it."""
    return _has_raised


def say_interrupted() -> None:
    """Print, once, that the command was interrupted."""
    global _has_said
    if not _has_said and os.environ.get("RANK", "0") == "0":
        _has_said = True
        _say(_INTERRUPTED)


def stop_answering() -> None:
    """Leave SIGINT to a server that handles it and then raises it again, which is no second one."""
    signal.set_wakeup_fd(-1)


def answer(action: str = "stopping") -> None:
    """Set what the answer to the first Ctrl-C says that the process does."""
    global _action
    _action = action


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Hold SIGINT back from the processes that the block starts; this process still gets it.

    Ctrl-C goes to all processes of a terminal. A child process that is just starting would print a
    traceback; the parent ends it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _speaks() -> bool:
    """Whether this process answers: the launcher does for those that it starts, else the first."""
    from sg3flow.settings import LAUNCHED

    return not LAUNCHED.is_set() and os.environ.get("RANK", "0") == "0"


def _start_thread() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A forked process has the same pipe: its signals are not those of this one.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_answer_signals, args=(reader,), daemon=True).start()


def _answer_signals(reader: int) -> None:
    count = 0
    while True:
        found = os.read(reader, 64).count(signal.SIGINT)
        if found and not count and not _has_said:
            _say(f"interrupted: {_action}; {_AGAIN}")
        count += found
        if count > 1 and not _has_torchrun():
            time.sleep(_GRACE_SEC)
            _end_at_once()


def _has_torchrun() -> bool:
    """Whether torchrun, or our launcher, started this process; it passes SIGINT on to it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _end_at_once(number: int = 0, frame: FrameType | None = None) -> None:
    """End this process and all that it started, without cleaning up, as after a power cut."""
    _say("error: ended at once; run the same command again to continue")
    with contextlib.suppress(Exception):  # whatever it is, this process has to end
        import psutil

        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    os._exit(EXIT_CODE)


def _say(line: str) -> None:
    """Write a line to standard error, past locks that the main thread may hold."""
    with contextlib.suppress(OSError, ValueError):
        start = "\n" if os.isatty(2) else ""  # after the terminal's ^C, or a progress bar
        os.write(2, f"{start}{line}\n".encode())
