"""The process that sends a run folder while a stage works: ``mirror`` starts it.

Arguments: the folder, and the process id of the stage. It ends when the stage says so by a line on
the standard input, or is gone. On the standard output it writes a dot whenever something got
through, and at the end why something did not.
"""

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sg3flow.errors import Sg3flowError, TrackingError, TrainingInterruptedError
from sg3flow.runs.run_folder import EVENTS, RUN, read_run
from sg3flow.settings import TRACKING, Tag
from sg3flow.tracking.mlflow_store import connect, tracking_uri
from sg3flow.tracking.outbox import Outbox, load_offset, single_uploader
from sg3flow.tracking.uploader import Uploader

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
        with single_uploader(folder, tracking_uri()) as alone:
            if alone:
                _send_until_end(folder, stage)
                return
        # The sender of a start that was killed may be at its last words.
        if time.monotonic() > deadline and stage.ends_within(0):
            raise TrackingError("another process is sending this run")
        time.sleep(0.2)


def _send_until_end(folder: Path, stage: _Stage) -> None:
    delivery = Uploader(folder, live=True, on_progress=lambda: _tell("."))
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

# A server that is gone is noticed at once and one that hangs after 10 or 20 s; longer than this
# without any progress only a large file may take, or a server that hangs in the middle of one.
_STALL_SEC = 60.0


@contextmanager
def uploading(folder: Path, journal: Outbox | None = None) -> Iterator[None]:
    """Mirror a run folder to MLflow while the block runs, and note how the block ended.

    Nothing here ever raises into the block. With ``SG3FLOW_TRACKING=off`` nothing is sent.

    Args:
        folder: what is sent.
        journal: writes its events, where somebody has one already.
    """
    with _sent_meanwhile(folder), noted(journal or Outbox(folder)):
        yield


@contextmanager
def noted(journal: Outbox) -> Iterator[None]:
    """Note in a journal that the block began, and how it ended."""
    journal.begin()
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, TrainingInterruptedError | KeyboardInterrupt)
        reason = " ".join(str(error).split())[:500]
        journal.note("tags", values={Tag.ERROR: reason or type(error).__name__})
        journal.end("KILLED" if stopped else "FAILED")
        raise
    journal.end("FINISHED")


def warn_unsent(folder: Path, reason: str) -> None:
    """Say in one line what the server does not have, and what to do."""
    lines, files = load_offset(folder, tracking_uri()).unsent()
    what = f"{lines} lines and {files} files" if files else f"{lines} lines"
    advice = f"{what} of {folder.name} are not sent yet: run `sg3flow sync` later"
    print(f"warning: {reason}; {advice}; the work itself is not affected", file=sys.stderr)


@contextmanager
def _sent_meanwhile(folder: Path) -> Iterator[None]:
    sender = _start(folder)
    try:
        yield
    finally:
        if sender is not None:
            _finish(sender, folder)


def _start(folder: Path) -> "subprocess.Popen[bytes] | None":
    """The process that sends; it ends by itself when this one does, however that ends."""
    if TRACKING.text().lower() == "off" or read_run(folder) is None:
        return None
    # -P: what lies in the current folder is not to be imported.
    command = [sys.executable, "-P", "-m", "sg3flow.tracking.upload_process", str(folder)]
    try:
        return subprocess.Popen(
            [*command, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the stage, which then says what to do
        )
    except OSError as error:
        warn_unsent(folder, f"the sender cannot be started: {error}")
        return None


def _finish(sender: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait while the sender gets something through, and say what is left."""
    try:
        reason = _wait(sender)
    finally:
        sender.kill()  # where it has not ended: nothing is lost by that
        sender.communicate()
    if reason:
        warn_unsent(folder, reason)


def _wait(sender: "subprocess.Popen[bytes]") -> str:
    """Why the sender could not send all; empty if it did."""
    assert sender.stdin is not None and sender.stdout is not None
    try:
        sender.stdin.write(b"end\n")
        sender.stdin.flush()
    except OSError:  # it is gone, which its exit code tells
        pass
    told = b""
    while select.select([sender.stdout], [], [], _STALL_SEC)[0]:
        news = os.read(sender.stdout.fileno(), 65536)
        if not news:
            code = sender.wait()
            reason = told.decode(errors="replace").strip(". \n")
            return reason or (f"the sender ended with exit code {code}" if code else "")
        told = (told + news)[-2000:]
    return "the tracking server does not answer"


def sync_folder(folder: Path) -> Iterator[str]:
    """Send every run folder in or below ``folder``; yields a line about each.

    Trainings go first: other stages add to their runs.

    Raises:
        TrackingError: there is no run folder, the server does not answer, or not all could be sent.
    """
    runs = [path.parent for path in folder.rglob(EVENTS) if read_run(path.parent) is not None]
    if not runs:
        raise TrackingError(f"no run folder ({RUN}, {EVENTS}) in {folder}")
    connect()
    left = 0
    for run in sorted(runs, key=lambda run: ("training" in (read_run(run) or {}), run)):
        try:
            yield f"{run}: {_sync(run)}"
        except (Sg3flowError, OSError, ValueError) as error:  # of this run: the others go on
            left += 1
            yield f"{run}: {_left(run)}: {error}"
    if left:
        raise TrackingError(f"{left} of {len(runs)} runs are not sent completely; see above")


def _sync(run: Path) -> str:
    if _is_training(run):
        return "is training, and sends by itself"
    with single_uploader(run, tracking_uri()) as alone:
        if not alone:
            return "is sent by another process just now"
        delivery = Uploader(run)
        if delivery.is_complete():
            return "nothing to send"
        if delivery.is_deleted():
            return "was deleted on the server, and stays so"
        delivery.send()
        return "all sent"


def _left(run: Path) -> str:
    try:
        return f"{load_offset(run, tracking_uri()).unsent()[0]} lines left"
    except OSError:
        return "not sent"


def _is_training(run: Path) -> bool:
    """Whether a process holds the lock of the training."""
    path = run.parent / ".lock"
    if not path.exists():
        return False
    # A shared lock, which filelock does not have: two that ask at once do not take each other for
    # a training, and it is enough to read the file, which may be another user's.
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
