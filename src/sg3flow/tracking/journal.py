"""What a stage tells MLflow, written down first: a run folder, of a training or of another stage.

    run.json      what the run is: a uid, the stage, its settings, the training run it belongs to
    stats.jsonl   a line of statistics a tick (trainings alone)
    events.jsonl  a line for everything else: pictures, files, metrics, tags, begin and end
    files/        hard links to a stage's files (a training's own stand in its folder)

The folder is complete without any server. What a server has of it is remembered elsewhere
(``position``), so that a copy of the folder can be sent by anyone, to anywhere.
"""

import os
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sg3flow.files import copy_file, write_json
from sg3flow.project import state_root
from sg3flow.provenance.files import read_provenance
from sg3flow.reporting import RUN_FORMAT, append_row, read_run, read_whole_lines
from sg3flow.tracking.provenance import provenance_tags

EVENTS, STATS = "events.jsonl", "stats.jsonl"
FILE_KINDS = ("image", "artifact", "snapshot")


class Journal:
    """Appends to the events of a run folder.

    A journal that cannot be written never stops the work it tells of: a warning says so, once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._warned = False

    def begin(self) -> None:
        """Note that a process works on the run from now on, and from what code, on what machine.

        A training has written that down itself, and in more detail.
        """
        self.note("begin")
        if read_provenance(self.folder) is not None:
            return
        tags = dict(provenance_tags())  # a copy: it is made once for the process
        has_parent = "training" in (read_run(self.folder) or {})
        if os.environ.get("MLFLOW_RUN_ID") and not has_parent:  # of `mlflow run`: ours stands below
            tags["mlflow.parentRunId"] = os.environ["MLFLOW_RUN_ID"]
        self.note("tags", values=tags)

    def end(self, status: str) -> None:
        """Note how the work ended: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.note("end", status=status)

    def note(self, kind: str, *, key: str = "", file: str = "", nimg: int = 0, **rest: Any) -> None:
        """Append a line."""
        row = {"kind": kind, "file": file, "key": key, "nimg": nimg, **rest}
        try:
            append_row(self.folder / EVENTS, row | {"timestamp": time.time()})
        except OSError as error:
            self._warn(error)

    def keep(self, path: Path, name: str) -> bool:
        """Keep a file as it is now, below ``files/``; whether that worked."""
        target = self.folder / "files" / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            # Every writer of this project replaces files: a link stays what it was.
            try:
                os.link(path, target)
            except OSError:  # another file system, or one without hard links
                copy_file(path, target)
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            print(f"warning: not tracked: {error}; the results stand", file=sys.stderr)
        self._warned = True


def open_journal(stage: str, params: Mapping[str, str], training_run: Path | None) -> Journal:
    """A new run folder for one execution of a stage, in ``state/tracking/``.

    Args:
        stage: name of the stage and of its run.
        params: its settings as text.
        training_run: the training folder it works on; its run becomes the parent.
    """
    started, uid = time.time(), uuid.uuid4().hex
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started))
    journal = Journal(state_root() / "tracking" / f"{stamp}-{stage}-{uid[:8]}")
    content: dict[str, Any] = {"format": RUN_FORMAT, "uid": uid, "started": started}
    content |= {"stage": stage, "name": stage, "params": dict(params)}
    training = read_run(training_run) if training_run else None
    if training is not None:
        content["training"] = {"uid": training["uid"], "name": training.get("name", "")}
    with suppress(OSError):  # the first line of the journal fails, too, and warns
        write_json(journal.folder / "run.json", content)
    if training is not None:
        journal.note("parent")
    return journal


def noted_end(folder: Path) -> tuple[str, float]:
    """How the work on a run ended, and when; ``("", 0)``: it goes on, or was killed."""
    rows = [row for row in read_whole_lines(folder / EVENTS) if row["kind"] in ("begin", "end")]
    last = rows[-1] if rows else {}
    return last.get("status", ""), last["timestamp"] if "status" in last else 0.0


def last_report(folder: Path) -> float:
    """When a run last told anything, in seconds since 1970."""
    times = [
        row.get("timestamp", 0.0)
        for name in (EVENTS, STATS)
        for row in read_whole_lines(folder / name)[-1:]
    ]
    return max(times, default=0.0) or time.time()


def whole_lines(path: Path, start: int) -> list[bytes]:
    """The complete lines from byte ``start`` on."""
    if not path.exists():
        return []
    with path.open("rb") as stream:
        stream.seek(start)
        content = stream.read()
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
