"""The process that sends a run folder while a stage works: ``mirror`` starts it.

Arguments: the folder, and the process id of the stage. It ends when the stage says so by a line on
the standard input, or is gone. On the standard output it writes a dot whenever something got
through, and at the end why something did not.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from sg3flow.errors import Sg3flowError, TrackingError
from sg3flow.tracking.delivery import Delivery
from sg3flow.tracking.position import sole_sender
from sg3flow.tracking.store import tracking_uri

_POLL_SEC = 2.0
_LONGEST_WAIT_SEC = 15.0
_WARN_AFTER_SEC = 60.0  # a stage that is over by then says it itself
_LOCK_SEC = 30.0
_NICENESS = 10  # the training goes first


class _Stage:
    """The process that is told of."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._has_ended = False

    def ends_within(self, seconds: float) -> bool:
        """Wait; whether the stage has ended by then."""
        deadline = time.monotonic() + seconds
        while not self._has_ended:
            left = max(0.0, min(1.0, deadline - time.monotonic()))
            # Its own children may hold the pipe when it is killed: so ask for the parent, too.
            said = bool(select.select([sys.stdin], [], [], left)[0])
            self._has_ended = said or os.getppid() != self._pid
            if time.monotonic() >= deadline:
                break
        return self._has_ended


def main(folder: Path, stage_pid: int) -> int:
    """Send until the stage ends, then once more; 1 if something is left."""
    stage = _Stage(stage_pid)
    try:
        _send(folder, stage)
    except Exception as error:
        known = isinstance(error, Sg3flowError)
        _tell(str(error) if known else f"sending failed: {type(error).__name__}: {error}")
        return 1
    return 0


def _send(folder: Path, stage: _Stage) -> None:
    deadline = time.monotonic() + _LOCK_SEC
    while True:
        with sole_sender(folder, tracking_uri()) as alone:
            if alone:
                _send_until_end(folder, stage)
                return
        # The sender of a start that was killed may be at its last words.
        if time.monotonic() > deadline and stage.ends_within(0):
            raise TrackingError("another process is sending this run")
        time.sleep(0.2)


def _send_until_end(folder: Path, stage: _Stage) -> None:
    delivery = Delivery(folder, live=True, on_progress=lambda: _tell("."))
    wait, failing_since = 0.0, None
    while not stage.ends_within(wait):
        try:
            delivery.send()
            wait, failing_since = _POLL_SEC, None
        except Sg3flowError as error:
            now = time.monotonic()
            wait = min(max(wait, _POLL_SEC / 2) * 2, _LONGEST_WAIT_SEC)
            if failing_since is None:
                failing_since = now
            elif failing_since + _WARN_AFTER_SEC < now:
                print(f"warning: {error}; the work goes on, will try again", file=sys.stderr)
                failing_since = float("inf")
    delivery.live = False
    delivery.send()


def _tell(text: str) -> None:
    with suppress(OSError):  # full, or nobody reads: progress is no matter of life and death
        os.write(1, text.encode())


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the stage's end is the signal
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    os.set_blocking(1, False)
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
