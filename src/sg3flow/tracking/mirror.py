"""Mirrors a run folder to MLflow while a stage works, by a process of its own.

The stage writes to the folder and never meets the server: not its slowness, not its absence, not
the second that importing its client takes. At the end the stage waits while something still gets
through; what is left then stays in the folder and is sent by ``sg3flow sync``.
"""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sg3flow.errors import Interrupted
from sg3flow.reporting import read_run
from sg3flow.tracking.journal import Journal
from sg3flow.tracking.position import load_position
from sg3flow.tracking.store import tracking_uri

# A server that is gone is noticed at once and one that hangs after 10 or 20 s; longer than this
# without any progress only a large file may take, or a server that hangs in the middle of one.
_STALL_SEC = 60.0


@contextmanager
def mirrored(folder: Path, journal: Journal | None = None) -> Iterator[None]:
    """Mirror a run folder to MLflow while the block runs, and note how the block ended.

    Nothing here ever raises into the block. With ``SG3FLOW_TRACKING=off`` nothing is sent.

    Args:
        folder: what is sent.
        journal: writes its events, where somebody has one already.
    """
    with _sent_meanwhile(folder), noted(journal or Journal(folder)):
        yield


@contextmanager
def noted(journal: Journal) -> Iterator[None]:
    """Note in a journal that the block began, and how it ended."""
    journal.begin()
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        reason = " ".join(str(error).split())[:500]
        journal.note("tags", values={"sg3flow.error": reason or type(error).__name__})
        journal.end("KILLED" if stopped else "FAILED")
        raise
    journal.end("FINISHED")


def warn_unsent(folder: Path, reason: str) -> None:
    """Say in one line what the server does not have, and what to do."""
    lines, files = load_position(folder, tracking_uri()).unsent()
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
    if os.environ.get("SG3FLOW_TRACKING", "").lower() == "off" or read_run(folder) is None:
        return None
    # -P: what lies in the current folder is not to be imported.
    command = [sys.executable, "-P", "-m", "sg3flow.tracking.sender", str(folder)]
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
