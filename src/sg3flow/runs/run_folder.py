"""What a training run tells the world: statistics, pictures, snapshots, files.

The run's own folder is the truth: ``run.json`` says what it is, ``stats.jsonl`` holds a line of
statistics a tick, and ``events.jsonl`` a line for every other thing worth showing. A tracker
mirrors these files; the training itself never meets it. Metrics of snapshots also stand in
``metric-<name>.jsonl``, as StyleGAN users know them, and digests of their bytes in
``digests.jsonl``.
"""

import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sg3flow.errors import DataError
from sg3flow.files import sha256_file, write_json

RUN_FORMAT = "sg3flow-run-1"
DIGESTS = "digests.jsonl"


@dataclass(frozen=True)
class Stat:
    """Count, mean and standard deviation of a quantity since the last report."""

    num: int
    mean: float
    std: float


class Reporter(Protocol):
    """Receives what a training run reports; ``nimg`` is the number of real images seen."""

    def stats(self, values: Mapping[str, Stat], nimg: int) -> None:
        """One report of all statistics."""

    def image(self, path: Path, key: str, nimg: int) -> None:
        """A picture under a name that comes back at every report."""

    def snapshot(self, path: Path, nimg: int, sha256: str) -> None:
        """A complete network snapshot, and the digest of its bytes."""

    def metric(self, snapshot: Path, name: str, value: float, nimg: int) -> None:
        """What a metric says of a snapshot."""

    def has_metric(self, snapshot: Path, name: str) -> bool:
        """Whether that is known already, from an earlier start of this run."""

    def artifact(self, path: Path) -> None:
        """Any other file."""


class JsonlReporter:
    """Appends to ``stats.jsonl`` and ``events.jsonl`` of a folder, each thing once.

    After a resume the steps since the last saved state run again and report again: lines that
    already stand are not repeated, so the files have no gap and no double.
    """

    def __init__(self, folder: Path) -> None:
        self._stats_path, self._events_path = folder / "stats.jsonl", folder / "events.jsonl"
        self._last_nimg = max(
            (row["nimg"] for row in read_whole_lines(self._stats_path)), default=-1
        )
        self._events = {self._identity(row) for row in read_whole_lines(self._events_path)}

    def stats(self, values: Mapping[str, Stat], nimg: int) -> None:
        """Append one line, unless this or a later one stands already."""
        if nimg <= self._last_nimg:
            return
        row = {name: asdict(value) for name, value in values.items()}
        append_row(self._stats_path, row | {"nimg": nimg, "timestamp": time.time()})
        self._last_nimg = nimg

    def image(self, path: Path, key: str, nimg: int) -> None:
        """Note a picture."""
        self._event({"kind": "image", "file": path.name, "key": key, "nimg": nimg})

    def snapshot(self, path: Path, nimg: int, sha256: str) -> None:
        """Note a snapshot, and in ``digests.jsonl`` what it holds; the last line of a file counts.

        A resumed training writes the snapshots since its last state again; on a GPU they may differ
        in their last bits.
        """
        row = {"kind": "snapshot", "file": path.name, "key": "", "nimg": nimg, "sha256": sha256}
        self._event(row)
        listed = path.with_name(DIGESTS)
        if snapshot_digests(path.parent).get(path.name) != sha256:
            digest = {"snapshot_pkl": path.name, "sha256": sha256}
            append_row(listed, digest | {"nimg": nimg, "timestamp": time.time()})

    def metric(self, snapshot: Path, name: str, value: float, nimg: int) -> None:
        """Append one line to the metric's file, unless the snapshot has one there, and note it."""
        path = snapshot.with_name(f"metric-{name}.jsonl")
        known = [row for row in read_whole_lines(path) if row["snapshot_pkl"] == snapshot.name]
        row: dict[str, Any] = {"results": {name: value}, "metric": name}
        row |= {"snapshot_pkl": snapshot.name, "nimg": nimg, "timestamp": time.time()}
        if not known:
            append_row(path, row)
        event = {"kind": "metric", "file": snapshot.name, "key": name, "nimg": nimg}
        self._event(event | {"value": value, "timestamp": row["timestamp"]})

    def has_metric(self, snapshot: Path, name: str) -> bool:
        """Whether ``metric`` has noted it."""
        own = [
            key for kind, file, key, *_ in self._events if (kind, file) == ("metric", snapshot.name)
        ]
        # Some metrics are several numbers: pr50k3_full_precision, ..._recall.
        return any(key == name or key.startswith(f"{name}_") for key in own)

    def artifact(self, path: Path) -> None:
        """Note a file; one whose content has changed since is noted again."""
        row = {"kind": "artifact", "file": path.name, "key": "", "nimg": 0}
        self._event(row | {"sha256": sha256_file(path)})

    def _event(self, row: dict[str, Any]) -> None:
        if self._identity(row) not in self._events:
            self._events.add(self._identity(row))
            append_row(self._events_path, {"timestamp": time.time()} | row)

    @staticmethod
    def _identity(row: Mapping[str, Any]) -> tuple[str, str, str, int, str]:
        return (row["kind"], row["file"], row["key"], row["nimg"], row.get("sha256", ""))


def snapshot_digests(folder: Path) -> dict[str, str]:
    """SHA-256 by file name of the snapshots that a run has written."""
    return {row["snapshot_pkl"]: row["sha256"] for row in read_whole_lines(folder / DIGESTS)}


def read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line without its newline is not there yet.

    Raises:
        DataError: a line is damaged.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return [read_row(line, path, f"line {number}") for number, line in enumerate(lines, 1)]


def read_row(line: bytes, path: Path, place: str) -> dict[str, Any]:
    """What a line of a file says.

    Raises:
        DataError: it is damaged.
    """
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise DataError(f"{path}, {place} is damaged: delete that line to go on")
    return row


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a line of JSON, and bring it to the disk.

    A line torn by a kill or a full disk is dropped first: nobody was told that it stands, and what
    follows it would be damaged too.
    """
    with path.open("ab+") as stream:
        _drop_torn_line(stream)
        stream.write((json.dumps(row) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's run.json, or None where there is none of ours."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(content, dict) and content.get("format") == RUN_FORMAT
    return content if is_ours else None


def read_uid(folder: Path) -> str:
    """The identity of the run that a folder shows; empty where it shows none."""
    run = read_run(folder)
    return str(run["uid"]) if run else ""


def describe_run(work: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write run.json; the run's identity and its beginning, once given, stay."""
    known = read_run(work)
    fixed = {key: known[key] for key in ("uid", "started") if key in known} if known else {}
    described = {"format": RUN_FORMAT, "uid": uuid.uuid4().hex, "started": time.time()}
    described |= fixed | content
    if described != known:
        write_json(work / "run.json", described)
    return described


def _drop_torn_line(stream: BinaryIO) -> None:
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return
    stream.seek(size - 1)
    if stream.read() != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
