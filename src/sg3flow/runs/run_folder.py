"""The schema of a run folder: names of its files, reading them, writing them.

The files are the record of a run. ``run.json`` describes it, ``stats.jsonl`` has one line of
statistics per tick, and ``events.jsonl`` one line for each image, snapshot, metric and other file.
``losses.csv`` has the losses of ``stats.jsonl`` in few rows, for plots.
``metric-<name>.jsonl`` has the metrics of snapshots in the form that StyleGAN users know, and
``digests.jsonl`` the SHA-256 of each snapshot. Tracking uploads these files; a training does not
know the tracking.
"""

import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sg3flow.errors import DataError
from sg3flow.files import sha256_file, write_json

# The value of "format" in the files that have one.
RUN_FORMAT = "sg3flow-run-1"
PROVENANCE_FORMAT = "sg3flow-provenance-1"

# Names of files.
RUN = "run.json"
OPTIONS = "training_options.json"
STATS, EVENTS, DIGESTS = "stats.jsonl", "events.jsonl", "digests.jsonl"
LOSSES = "losses.csv"
PROVENANCE, DIFF, PACKAGES = "provenance.json", "code.diff", "packages.txt"
NETWORKS = "networks.txt"
REALS = "reals.png"
CONV_FORMS = "conv-forms.json"  # beside the run folder, in the folder of its states
_FAKES_INIT = "fakes_init.png"

_SNAPSHOT_NAME = re.compile(r"network-snapshot-([0-9]{6,})\.pkl")
_AVERAGES_NAME = re.compile(r"power-averages-([0-9]{6,})\.safetensors")
_FAKES_NAME = re.compile(r"fakes([0-9]{6,})\.png")
_METRIC_NAME = re.compile(r"metric-.+\.jsonl")


def snapshot_name(nimg: int) -> str:
    """File name of the snapshot after ``nimg`` images: ``network-snapshot-<kimg>.pkl``."""
    return f"network-snapshot-{nimg // 1000:06d}.pkl"


def snapshot_kimg(name: str) -> int | None:
    """The thousands of images in the name of a snapshot; None: it is no name of a snapshot."""
    match = _SNAPSHOT_NAME.fullmatch(name)
    return int(match[1]) if match else None


def list_snapshots(folder: Path) -> list[Path]:
    """The complete snapshots in a folder, the oldest first."""
    found = [(snapshot_kimg(path.name), path) for path in folder.glob("*.pkl")]
    return [path for _, path in sorted((kimg, path) for kimg, path in found if kimg is not None)]


def averages_name(nimg: int) -> str:
    """File name of the power-function averages after ``nimg`` images."""
    return f"power-averages-{nimg // 1000:06d}.safetensors"


def list_averages(folder: Path) -> dict[int, Path]:
    """The files of power-function averages in a folder, by thousands of images, sorted."""
    paths = folder.glob("power-averages-*")
    found = [(_AVERAGES_NAME.fullmatch(path.name), path) for path in paths]
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def fakes_name(nimg: int) -> str:
    """File name of the sample grid after ``nimg`` images; 0: before the first step."""
    return f"fakes{nimg // 1000:06d}.png" if nimg else _FAKES_INIT


def kimg_of(name: str) -> int | None:
    """The thousands of images in the name of a file of one moment; None: another file.

    Snapshots, sample grids and power-function averages are such files.
    """
    match = _FAKES_NAME.fullmatch(name) or _AVERAGES_NAME.fullmatch(name)
    return int(match[1]) if match else snapshot_kimg(name)


def metric_file(name: str) -> str:
    """File name of the values of a metric."""
    return f"metric-{name}.jsonl"


def is_metric_file(name: str) -> bool:
    """Whether a file name is one that ``metric_file`` gives."""
    return _METRIC_NAME.fullmatch(name) is not None


def list_metric_files(folder: Path) -> list[Path]:
    """The files of metric values in a folder."""
    return sorted(path for path in folder.glob("*.jsonl") if is_metric_file(path.name))


def is_run_folder(folder: Path) -> bool:
    """Whether a folder has the files of a training; one of an old version may lack ``run.json``."""
    return any((folder / name).is_file() for name in (RUN, OPTIONS, STATS))


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's ``run.json``; None: this project did not write one there."""
    return _read_marked(folder / RUN, RUN_FORMAT)


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """The content of ``provenance.json``; None: this project did not write one there."""
    return _read_marked(folder / PROVENANCE, PROVENANCE_FORMAT)


def read_options(folder: Path) -> dict[str, Any]:
    """The settings of a training as its user gave them; empty: not recorded."""
    try:
        content = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    given = content.get("given") if isinstance(content, dict) else None
    return given if isinstance(given, dict) else {}


def _read_marked(path: Path, mark: str) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("format") == mark else None


def read_packages(folder: Path) -> dict[str, str]:
    """Version by name of the packages that a training used; empty: not recorded."""
    try:
        return parse_packages((folder / PACKAGES).read_text(encoding="utf-8"))
    except OSError:
        return {}


def format_packages(versions: Mapping[str, str]) -> str:
    """One line per package, ``name==version``."""
    return "".join(f"{name}=={version}\n" for name, version in versions.items())


def parse_packages(text: str) -> dict[str, str]:
    """The inverse of ``format_packages``."""
    return dict(line.split("==", 1) for line in text.splitlines() if "==" in line)


def read_uid(folder: Path) -> str:
    """The identity of the run in a folder; empty: there is none."""
    run = read_run(folder)
    return str(run["uid"]) if run else ""


def describe_run(work: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write ``run.json``; the uid and the start time of an existing one stay."""
    known = read_run(work)
    fixed = {key: known[key] for key in ("uid", "started") if key in known} if known else {}
    described = {"format": RUN_FORMAT, "uid": uuid.uuid4().hex, "started": time.time()}
    described |= fixed | content
    if described != known:
        write_json(work / RUN, described)
    return described


def snapshot_digests(folder: Path) -> dict[str, str]:
    """SHA-256 by file name of the snapshots that a run has written."""
    return {row["snapshot_pkl"]: row["sha256"] for row in read_whole_lines(folder / DIGESTS)}


def whole_lines(path: Path, start: int = 0) -> list[bytes]:
    """The complete lines of a file from byte ``start`` on, with their ends; none: no such file.

    A last line without its end is not complete: its writer was killed, or is writing it now.
    """
    if not path.exists():
        return []
    with path.open("rb") as stream:
        stream.seek(start)
        content = stream.read()
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


def parse_row(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None: the line is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def read_row(line: bytes, path: Path, place: str) -> dict[str, Any]:
    """The JSON object in a line of ``path``.

    Args:
        place: where the line is, for the message.

    Raises:
        DataError: the line is damaged.
    """
    row = parse_row(line)
    if row is None:
        raise DataError(f"{path}, {place} is damaged: delete that line to continue")
    return row


def read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in the complete lines of a file.

    Raises:
        DataError: a line is damaged.
    """
    lines = whole_lines(path)
    return [read_row(line, path, f"line {number}") for number, line in enumerate(lines, 1)]


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """As ``read_whole_lines``, without the damaged lines."""
    return [row for line in whole_lines(path) if (row := parse_row(line)) is not None]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a line of JSON and flush it to the disk; see ``append_rows``."""
    append_rows(path, [row])


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append lines of JSON and flush them to the disk together.

    An incomplete last line, left by a kill or a full disk, is dropped: it was never acknowledged,
    and would damage the line that follows.
    """
    with path.open("ab+") as stream:
        _drop_torn_line(stream)
        stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        stream.flush()
        os.fsync(stream.fileno())


def _drop_torn_line(stream: BinaryIO) -> None:
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return
    stream.seek(size - 1)
    if stream.read() != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)


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
        """An image under a key that is the same at every report."""

    def snapshot(self, path: Path, nimg: int, sha256: str) -> None:
        """A complete network snapshot, and the digest of its bytes."""

    def pruned(self, path: Path, nimg: int) -> None:
        """A snapshot that will be removed, because ``keep_snapshots`` does not keep it."""

    def metric(self, snapshot: Path, name: str, value: float, nimg: int) -> None:
        """The value of a metric for a snapshot."""

    def has_metric(self, snapshot: Path, name: str) -> bool:
        """Whether the value of that name is recorded already, by an earlier start of this run."""

    def artifact(self, path: Path) -> None:
        """Any other file."""


class JsonlReporter:
    """Appends to ``stats.jsonl`` and ``events.jsonl`` of a folder, each line once.

    After a resume the steps since the last saved state run again and report again. Lines that the
    files have already are not repeated, so the files have no gap and no duplicate.
    """

    def __init__(self, folder: Path) -> None:
        self._stats_path, self._events_path = folder / STATS, folder / EVENTS
        self._last_nimg = max(
            (row["nimg"] for row in read_whole_lines(self._stats_path)), default=-1
        )
        self._events = {self._identity(row) for row in read_whole_lines(self._events_path)}

    def stats(self, values: Mapping[str, Stat], nimg: int) -> None:
        """Append one line, unless the file has this or a later one."""
        if nimg <= self._last_nimg:
            return
        row = {name: asdict(value) for name, value in values.items()}
        append_row(self._stats_path, row | {"nimg": nimg, "timestamp": time.time()})
        self._last_nimg = nimg

    def image(self, path: Path, key: str, nimg: int) -> None:
        """Record an image."""
        self._event({"kind": "image", "file": path.name, "key": key, "nimg": nimg})

    def snapshot(self, path: Path, nimg: int, sha256: str) -> None:
        """Record a snapshot, and its digest in ``digests.jsonl``; the last line of a name counts.

        A resumed training writes the snapshots since its last state again; on a GPU they may differ
        in their last bits.
        """
        row = {"kind": "snapshot", "file": path.name, "key": "", "nimg": nimg, "sha256": sha256}
        self._event(row)
        listed = path.with_name(DIGESTS)
        if snapshot_digests(path.parent).get(path.name) != sha256:
            digest = {"snapshot_pkl": path.name, "sha256": sha256}
            append_row(listed, digest | {"nimg": nimg, "timestamp": time.time()})

    def pruned(self, path: Path, nimg: int) -> None:
        """Record that a snapshot will be removed; its digest stays."""
        row = {"kind": "pruned", "file": path.name, "key": "", "nimg": nimg}
        self._event(row | {"sha256": snapshot_digests(path.parent).get(path.name, "")})

    def metric(self, snapshot: Path, name: str, value: float, nimg: int) -> None:
        """Append a line to the metric's file, unless the snapshot has one there, and record it."""
        path = snapshot.with_name(metric_file(name))
        known = [row for row in read_whole_lines(path) if row["snapshot_pkl"] == snapshot.name]
        row: dict[str, Any] = {"results": {name: value}, "metric": name}
        row |= {"snapshot_pkl": snapshot.name, "nimg": nimg, "timestamp": time.time()}
        if not known:
            append_row(path, row)
        event = {"kind": "metric", "file": snapshot.name, "key": name, "nimg": nimg}
        self._event(event | {"value": value, "timestamp": row["timestamp"]})

    def has_metric(self, snapshot: Path, name: str) -> bool:
        """Whether ``metric`` has recorded it."""
        wanted = ("metric", snapshot.name, name)
        return any(event[:3] == wanted for event in self._events)

    def artifact(self, path: Path) -> None:
        """Record a file; one with changed content is recorded again."""
        row = {"kind": "artifact", "file": path.name, "key": "", "nimg": 0}
        self._event(row | {"sha256": sha256_file(path)})

    def _event(self, row: dict[str, Any]) -> None:
        if self._identity(row) not in self._events:
            self._events.add(self._identity(row))
            append_row(self._events_path, {"timestamp": time.time()} | row)

    @staticmethod
    def _identity(row: Mapping[str, Any]) -> tuple[str, str, str, int, str]:
        return (row["kind"], row["file"], row["key"], row["nimg"], row.get("sha256", ""))
