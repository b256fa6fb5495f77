"""Tracks stages, and uploads run folders: by a process beside a stage, and for ``sg3flow sync``.

A stage writes lines to its outbox. It never waits for the tracking server during its work and never
fails because of it. What is not sent by its end stays in the outbox, and a warning says how much
that is.

``uploading`` starts the process. Its arguments are the folder and the process id of the stage. It
ends when the stage writes a line to its standard input, or is gone. It writes a dot
per upload to its standard output, and at the end the reason of a failure.
"""

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sg3flow.addresses import shown_url
from sg3flow.errors import Sg3flowError, TrackingError, TrainingInterruptedError
from sg3flow.progress import waiting
from sg3flow.runs.run_folder import EVENTS, RUN, read_run
from sg3flow.settings import TRACKING, Tag
from sg3flow.tracking.mlflow_store import (
    connect,
    tracking_uri,
    work_in_background,
)
from sg3flow.tracking.outbox import (
    Outbox,
    StageRun,
    flat_params,
    load_offset,
    open_outbox,
    single_uploader,
)
from sg3flow.tracking.uploader import Uploader

_POLL_SEC = 2.0
_LONGEST_WAIT_SEC = 15.0
_WARN_AFTER_SEC = 60.0  # a stage that ends earlier prints the warning itself
_LOCK_SEC = 30.0
_NICENESS = 10  # lower priority than the training
# A server that is down is noticed at once, and one that hangs after 10 or 20 s. More time than this
# without progress is a large file, or a server that hangs in the middle of one.
_STALL_SEC = 60.0


@contextmanager
def uploading(folder: Path, outbox: Outbox | None = None) -> Iterator[None]:
    """Upload a run folder to MLflow while the block runs, and record how the block ended.

    Tracking never raises an error into the block. With ``SG3FLOW_TRACKING=off`` nothing is sent.

    Args:
        folder: the run folder.
        outbox: of that folder, if the caller has one already.
    """
    with _upload_beside(folder), recorded(outbox or Outbox(folder)):
        yield


@contextmanager
def tracked_stage(
    stage: str, config: Any, training_run: Path | None = None, *, set_name: str = ""
) -> Iterator[StageRun]:
    """Track one execution of a stage: its settings, and what the block reports.

    Args:
        stage: name of the stage.
        config: the stage's settings, a dataclass.
        training_run: the training folder whose run this one belongs to, if any.
        set_name: of the images that it works on, for the name of the run.
    """
    outbox = open_outbox(stage, flat_params(config), training_run, set_name)
    with uploading(outbox.folder, outbox):
        yield StageRun(outbox, training_run)


@contextmanager
def tracked_now(stage: str, config: Any, training_run: Path | None = None) -> Iterator[str]:
    """Track a stage that needs the server and the id of its run at once.

    Yields:
        the id of the stage's run.

    Raises:
        TrackingError: the server does not accept the run.
    """
    outbox = open_outbox(stage, flat_params(config), training_run)
    uploader = Uploader(outbox.folder, live=True)
    try:
        with recorded(outbox):
            uploader.send_own()
            yield uploader.run_id()
    finally:
        try:
            uploader.send_own()
        except TrackingError as error:
            warn_unsent(outbox.folder, str(error))


@contextmanager
def recorded(outbox: Outbox) -> Iterator[None]:
    """Record the start of the block in an outbox, and how it ended."""
    outbox.begin()
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, TrainingInterruptedError | KeyboardInterrupt)
        reason = " ".join(str(error).split())[:500]
        outbox.note("tags", values={Tag.ERROR: reason or type(error).__name__})
        outbox.end("KILLED" if stopped else "FAILED")
        raise
    outbox.end("FINISHED")


def warn_unsent(folder: Path, reason: str) -> None:
    """Print one line: what the server does not have, and what to do."""
    lines, files = load_offset(folder, tracking_uri()).unsent()
    what = f"{lines} lines and {files} files" if files else f"{lines} lines"
    advice = f"{what} of {folder.name} are not sent yet: run `sg3flow sync` later"
    print(f"warning: {reason}; {advice}; the results are not affected", file=sys.stderr)


@contextmanager
def _upload_beside(folder: Path) -> Iterator[None]:
    process = _start(folder)
    try:
        yield
    finally:
        if process is not None:
            _finish(process, folder)


def _start(folder: Path) -> "subprocess.Popen[bytes] | None":
    """Start the upload process; it ends with this process, even if this one is killed."""
    if TRACKING.text().lower() == "off" or read_run(folder) is None:
        return None
    # -P: modules in the current folder are not imported.
    command = [sys.executable, "-P", "-m", "sg3flow.tracking.upload_process", str(folder)]
    try:
        return subprocess.Popen(
            [*command, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C goes to the stage only
        )
    except OSError as error:
        warn_unsent(folder, f"the upload process cannot be started: {error}")
        return None


def _finish(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait while the process makes progress, and report what is not sent."""
    try:
        reason = _wait(process)
    finally:
        process.kill()  # if it still runs: a later upload continues
        process.communicate()
    if reason:
        warn_unsent(folder, reason)


def _wait(process: "subprocess.Popen[bytes]") -> str:
    """Why the process could not send everything; empty: it did."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(b"end\n")
        process.stdin.flush()
    except OSError:  # it has ended; its exit code is read below
        pass
    uri = tracking_uri()
    what = f"the upload to MLflow at {shown_url(uri)}"
    with nullcontext() if uri.startswith("sqlite:") else waiting(what):
        return _read_reason(process)


def _read_reason(process: "subprocess.Popen[bytes]") -> str:
    """What the process prints until its end, or why it is not waited for any longer."""
    assert process.stdout is not None
    output = b""
    while select.select([process.stdout], [], [], _STALL_SEC)[0]:
        chunk = os.read(process.stdout.fileno(), 65536)
        if not chunk:
            code = process.wait()
            reason = output.decode(errors="replace").strip(". \n")
            return reason or (f"the upload process ended with exit code {code}" if code else "")
        output = (output + chunk)[-2000:]
    return "the tracking server does not answer"


def sync_folder(folder: Path) -> Iterator[str]:
    """Send every run folder in or below ``folder``; yields a line for each.

    Trainings come first, because other stages add to their runs.

    Raises:
        TrackingError: there is no run folder, the server does not answer, or a run is incomplete.
    """
    runs = [path.parent for path in folder.rglob(EVENTS) if read_run(path.parent) is not None]
    if not runs:
        raise TrackingError(f"no run folder ({RUN}, {EVENTS}) in {folder}")
    connect()
    incomplete = 0
    for run in sorted(runs, key=lambda run: ("training" in (read_run(run) or {}), run)):
        try:
            yield f"{run}: {_sync(run)}"
        except (Sg3flowError, OSError, ValueError) as error:  # continue with the other runs
            incomplete += 1
            yield f"{run}: {_left(run)}: {error}"
    if incomplete:
        raise TrackingError(
            f"{incomplete} of {len(runs)} runs are incomplete on the server; see above"
        )


def _sync(run: Path) -> str:
    if _is_training(run):
        return "is training: its upload process sends it"
    with single_uploader(run, tracking_uri()) as alone:
        if not alone:
            return "another process is sending it"
        uploader = Uploader(run)
        if uploader.is_complete():
            return "nothing to send"
        if uploader.is_deleted():
            return "was deleted on the server: not sent"
        uploader.send()
        return "all sent"


def _left(run: Path) -> str:
    try:
        return f"{load_offset(run, tracking_uri()).unsent()[0]} lines left"
    except OSError:
        return "not sent"


def _is_training(run: Path) -> bool:
    """Whether a process is training in the folder: it holds the lock."""
    path = run.parent / ".lock"
    if not path.exists():
        return False
    # A shared lock, which filelock lacks: two checks at once do not mistake each other for a
    # training, and read access suffices for a file of another user.
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


class _Stage:
    """The process whose run folder is uploaded."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._has_ended = False

    def ends_within(self, seconds: float) -> bool:
        """Wait for the stage to end; whether it has."""
        deadline = time.monotonic() + seconds
        while not self._has_ended:
            left = max(0.0, min(1.0, deadline - time.monotonic()))
            # Children of a killed stage may keep the pipe open: check the parent, too.
            has_line = bool(select.select([sys.stdin], [], [], left)[0])
            self._has_ended = has_line or os.getppid() != self._pid
            if time.monotonic() >= deadline:
                break
        return self._has_ended


def main(folder: Path, stage_pid: int) -> int:
    """Send until the stage ends, and once more after that; 1: something is not sent."""
    stage = _Stage(stage_pid)
    work_in_background()
    try:
        _send(folder, stage)
    except Exception as error:
        known = isinstance(error, Sg3flowError)
        _report(str(error) if known else f"sending failed: {type(error).__name__}: {error}")
        return 1
    return 0


def _send(folder: Path, stage: _Stage) -> None:
    deadline = time.monotonic() + _LOCK_SEC
    while True:
        with single_uploader(folder, tracking_uri()) as alone:
            if alone:
                _send_until_end(folder, stage)
                return
        # The upload process of a killed stage may still be sending.
        if time.monotonic() > deadline and stage.ends_within(0):
            raise TrackingError("another process is sending this run")
        time.sleep(0.2)


def _send_until_end(folder: Path, stage: _Stage) -> None:
    uploader = Uploader(folder, live=True, on_progress=lambda: _report("."))
    wait, failing_since = 0.0, None
    while not stage.ends_within(wait):
        try:
            uploader.send()
            wait, failing_since = _POLL_SEC, None
        except Sg3flowError as error:
            now = time.monotonic()
            wait = min(max(wait, _POLL_SEC / 2) * 2, _LONGEST_WAIT_SEC)
            if failing_since is None:
                failing_since = now
            elif failing_since + _WARN_AFTER_SEC < now:
                print(
                    f"warning: {error}; the stage continues, and the upload is retried",
                    file=sys.stderr,
                )
                failing_since = float("inf")
    uploader.live = False
    uploader.send()


def _report(text: str) -> None:
    with suppress(OSError):  # full, or closed: progress is not essential
        os.write(1, text.encode())


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the end of the stage ends this process
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    os.set_blocking(1, False)
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
