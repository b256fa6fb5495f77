"""The outbox of a run folder: tags and events to upload, and the offset of what was sent.

The outbox is ``events.jsonl`` and ``stats.jsonl`` of the folder. A stage reports through a
``StageRun``. An ``Offset`` says how many bytes of each a server has.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.addresses import without_secrets
from sg3flow.files import (
    file_lock,
    link_or_copy,
    try_lock,
    write_bytes,
    write_json,
)
from sg3flow.runs.code_state import code_info, user_name
from sg3flow.runs.pipeline import experiment_name, pipeline_uid
from sg3flow.runs.run_folder import (
    EVENTS,
    RUN,
    RUN_FORMAT,
    STATS,
    Stat,
    append_row,
    append_rows,
    parse_row,
    read_provenance,
    read_run,
    read_whole_lines,
    whole_lines,
)
from sg3flow.runs.run_names import stage_name
from sg3flow.runs.set_names import without_size
from sg3flow.settings import Tag, offsets_folder, tracking_state

_PACKAGES = ("sg3flow", "torch", "mlflow", "dvc", "great-expectations", "numpy", "scipy", "pillow")


@cache
def provenance_tags() -> dict[str, str]:
    """Tags of a stage that runs in this process: commit, package versions, machine."""
    code, _ = code_info()
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    tags = {
        "mlflow.source.name": os.path.basename(sys.argv[0]),
        Tag.PYTHON: platform.python_version(),
        Tag.MACHINE: f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        Tag.DVC_EXP: experiment_name(),
    }
    return _filled(_common(code, user_name()) | tags | _version_tags(versions))


def recorded_tags(
    provenance: Mapping[str, Any] | None, versions: Mapping[str, str]
) -> dict[str, str]:
    """Tags of a training, from the provenance in its folder.

    Args:
        provenance: content of the folder's ``provenance.json``; None: an old folder without one.
        versions: version by name of the packages that the training used.
    """
    if provenance is None:
        return {}
    machine, compute, data = (provenance[key] for key in ("machine", "compute", "data"))
    gpus = [gpu["name"] for gpu in machine["gpus"]]
    tags = {
        "mlflow.source.name": provenance["script"],
        Tag.REPRODUCE: provenance["reproduce"],
        Tag.PYTHON: compute["python"],
        Tag.MACHINE: f"{machine['system']} {machine['architecture']}",
        Tag.CPU: f"{machine['cpu']}, {machine['usable_cores']} cores used",
        Tag.MEMORY_GIB: str(machine["memory_gib"]),
        Tag.GPU: ", ".join(gpus),
        Tag.DRIVER: machine["driver"],
        Tag.CUDA: compute["cuda"],
        Tag.OPS: compute["ops"],
        Tag.THREADS: str(compute["threads"]),
        Tag.SEED: str(provenance["seed"]),
        Tag.DATA: data["digest"],
        Tag.LICENSE: data["licence"],
        Tag.DVC_EXP: provenance["dvc_exp"],
        "mlflow.parentRunId": provenance["mlflow_run"],  # of `mlflow run`: its child
    }
    common = _common(provenance["code"], provenance["user"])
    return _filled(common | tags | _version_tags(versions))


def _common(code: Mapping[str, Any], user: str) -> dict[str, str]:
    tags = {"mlflow.source.type": "LOCAL", "mlflow.user": user}
    if code["commit"]:
        tags |= {
            "mlflow.source.git.commit": code["commit"],
            "mlflow.source.git.branch": code["branch"],
            "mlflow.source.git.repoURL": code["remote"],
            Tag.GIT_DIRTY: str(code["dirty"]).lower(),
        }
    return tags


def _version_tags(versions: Mapping[str, str]) -> dict[str, str]:
    return {f"{Tag.VERSION}{name}": versions[name] for name in _PACKAGES if name in versions}


def _filled(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that are not empty."""
    return {name: value for name, value in tags.items() if value}


FILE_KINDS = ("image", "artifact", "snapshot")


class Outbox:
    """Appends to the events of a run folder.

    An outbox that cannot be written does not stop the stage: it prints one warning.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._warned = False

    def begin(self) -> None:
        """Record that a process starts to work on the run, with its code and machine.

        A training records code and machine itself, in ``provenance.json``.
        """
        has_parent = "training" in (read_run(self.folder) or {})
        self.note("begin", pipeline="" if has_parent else pipeline_uid())
        if read_provenance(self.folder) is not None:
            return
        tags = dict(provenance_tags())  # a copy: the function is cached
        if os.environ.get("MLFLOW_RUN_ID") and not has_parent:  # of `mlflow run`: its child
            tags["mlflow.parentRunId"] = os.environ["MLFLOW_RUN_ID"]
        self.note("tags", values=tags)

    def end(self, status: str) -> None:
        """Record how the work ended: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.note("end", status=status)

    def note(self, kind: str, *, key: str = "", file: str = "", nimg: int = 0, **rest: Any) -> None:
        """Append a line."""
        row = {"kind": kind, "file": file, "key": key, "nimg": nimg, **rest}
        try:
            append_row(self.folder / EVENTS, row | {"timestamp": time.time()})
        except OSError as error:
            self._warn(error)

    def points(self, points: Iterable[tuple[int, float, Mapping[str, float]]]) -> None:
        """Append points of curves to the statistics: step, time and values by name."""
        rows = [
            {name: asdict(Stat(1, value, 0.0)) for name, value in values.items()}
            # A step counts as a kimg: MLflow's steps are kimg.
            | {"nimg": step * 1000, "timestamp": timestamp}
            for step, timestamp, values in points
        ]
        try:
            append_rows(self.folder / STATS, rows)
        except OSError as error:
            self._warn(error)

    def keep(self, path: Path, name: str) -> bool:
        """Keep the present content of a file below ``files/``; whether that worked."""
        target = self.folder / "files" / name
        try:
            link_or_copy(path, target)  # all writers of this project replace files
        except OSError as error:
            self._warn(error)
            return False
        return True

    def store(self, content: bytes, name: str) -> bool:
        """Write a new file below ``files/``; whether that worked."""
        try:
            write_bytes(self.folder / "files" / name, content)
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            print(f"warning: not tracked: {error}; the results are not affected", file=sys.stderr)
        self._warned = True


def open_outbox(
    stage: str, params: Mapping[str, str], training_run: Path | None, set_name: str = ""
) -> Outbox:
    """A new run folder, in ``state/tracking/``, for one execution of a stage.

    Args:
        stage: name of the stage.
        params: its settings as text.
        training_run: the training folder that the stage reads; its run becomes the parent.
        set_name: of the images that it works on, for the name of the run; empty: the training's.
    """
    started, uid = time.time(), uuid.uuid4().hex
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started))
    outbox = Outbox(tracking_state() / f"{stamp}-{stage}-{uid[:8]}")
    content: dict[str, Any] = {"format": RUN_FORMAT, "uid": uid, "started": started}
    training = read_run(training_run) if training_run else None
    if training_run is not None:
        set_name = set_name or without_size(_set_of(training_run)["title"])
    content |= {"stage": stage, "name": stage_name(stage, set_name), "params": dict(params)}
    if training is not None:
        content["training"] = {"uid": training["uid"], "name": training.get("name", "")}
    with suppress(OSError):  # the first event fails, too, and prints a warning
        write_json(outbox.folder / RUN, content)
    if training is not None:
        outbox.note("parent")
    return outbox


def training_set_name(training_run: Path) -> str:
    """The name of a training's set for people; empty: not recorded."""
    return _set_of(training_run)["title"]


def _set_of(training_run: Path) -> dict[str, str]:
    """Digest of the training set, and its name for people; empty: not recorded."""
    known = (read_provenance(training_run) or {}).get("data") or {}
    if not known:  # of an older version
        known = (read_run(training_run) or {}).get("training_set") or {}
    title = known.get("title") or known.get("name") or ""
    return {"digest": str(known.get("digest") or ""), "title": str(title)}


class StageRun:
    """One execution of a stage; each method appends a line to the outbox.

    Args:
        training_run: the training folder that the stage reads; None: it reads none.

    Attributes:
        measured: ``kimg`` and ``values`` of each snapshot that ``training_metrics`` got.
    """

    def __init__(self, outbox: Outbox, training_run: Path | None = None) -> None:
        self._outbox, self._training_run = outbox, training_run
        self.measured: dict[str, dict[str, Any]] = {}

    def metrics(self, values: Mapping[str, float]) -> None:
        """Metrics of this stage's own run."""
        for name, value in values.items():
            self._outbox.note("metric", key=name, value=float(value))

    def curves(self, points: Iterable[tuple[int, float, Mapping[str, float]]]) -> None:
        """Points of this stage's own curves, sent in batches.

        Args:
            points: step, time in seconds since 1970, and values by name.
        """
        self._outbox.points(points)

    def step_image(self, content: bytes, key: str, step: int) -> None:
        """A PNG of this stage's own run, under the step slider of ``key``."""
        name = f"{key}-{step:06d}.png"
        if self._outbox.store(content, name):
            self._outbox.note("image", key=key, file=f"files/{name}", nimg=step * 1000)

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file for the run's artifacts, with its present content; a missing file is skipped."""
        name = f"{folder}/{path.name}" if folder else path.name
        if path.is_file() and self._outbox.keep(path, name):
            self._outbox.note("artifact", key=folder, file=f"files/{name}")

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags of this stage's own run."""
        self._outbox.note("tags", values=dict(values))

    def dataset(self, *, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """The data set that this stage made or read."""
        known = _set_of(self._training_run) if self._training_run is not None else {}
        if known.get("digest") == digest:  # one set has one name
            name = known["title"] or name
        values = {"name": name, "digest": digest, "source": source, "profile": dict(profile)}
        self._outbox.note("dataset", values=values)

    def training_metrics(
        self, values: Mapping[str, float], kimg: int, snapshot: str | None = None
    ) -> None:
        """Metrics of the training run at ``kimg``, and of that snapshot's LoggedModel."""
        if snapshot is not None:
            self.measured[snapshot] = {"kimg": kimg, "values": dict(values)}
        for name, value in values.items():
            self._outbox.note(
                "metric",
                key=name,
                file=snapshot or "",
                nimg=kimg * 1000,
                value=float(value),
                on="training",
            )

    def training_image(self, path: Path, key: str, kimg: int) -> None:
        """An image of the training run at ``kimg``, under the step slider of ``key``."""
        name = f"training/{key}{path.suffix}"
        if self._outbox.keep(path, name):
            file = f"files/{name}"
            self._outbox.note("image", key=key, file=file, nimg=kimg * 1000, on="training")

    def training_file(self, name: str, content: bytes) -> bool:
        """A new file for the artifacts of the training run; whether it was kept."""
        if not self._outbox.store(content, f"training/{name}"):
            return False
        folder = str(PurePosixPath(name).parent)
        key = "" if folder == "." else folder
        self._outbox.note("artifact", key=key, file=f"files/training/{name}", on="training")
        return True

    def training_table(self, name: str, content: bytes) -> None:
        """A table for the training run, as JSON in the form of MLflow's ``log_table``."""
        if self.training_file(name, content):
            self._outbox.note("table", values={"path": name}, on="training")

    def training_best(self, best: Mapping[str, Any]) -> None:
        """The best snapshot of the training, for its description; see ``run_notes``."""
        self._outbox.note("best", values=dict(best), on="training")


def flat_params(config: Any) -> dict[str, str]:
    """The settings of a stage as MLflow takes them: text by name; lists joined by commas."""
    values = asdict(config)
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
    }


def noted_end(folder: Path) -> tuple[str, float]:
    """How the work on a run ended, and when; ``("", 0)``: it still runs, or was killed."""
    rows = [row for row in read_whole_lines(folder / EVENTS) if row["kind"] in ("begin", "end")]
    last = rows[-1] if rows else {}
    return last.get("status", ""), last["timestamp"] if "status" in last else 0.0


def last_report(folder: Path) -> float:
    """The time of the last line of a run, in seconds since 1970."""
    times = [
        row.get("timestamp", 0.0)
        for name in (EVENTS, STATS)
        for row in read_whole_lines(folder / name)[-1:]
    ]
    return max(times, default=0.0) or time.time()


@dataclass
class Offset:
    """How much of a run folder a server has.

    It is saved in ``state/sent/``, because the folder may be an output of DVC or read-only. Losing
    it costs only time: everything is sent again, which adds nothing.

    Attributes:
        folder: the run folder.
        uri: the server, without password.
        run_id: the run on the server.
        stats: bytes of ``stats.jsonl`` that the server has.
        events: bytes of ``events.jsonl`` that the server has.
        ahead: first and end byte of later lines that the server has: a refused line does not stop
            the lines after it.
        status: the run's status on the server.
    """

    folder: str
    uri: str
    run_id: str = ""
    stats: int = 0
    events: int = 0
    ahead: list[list[int]] = field(default_factory=list)
    status: str = ""

    def save(self) -> None:
        """Write it to the disk."""
        write_json(_place(Path(self.folder), self.uri, "json"), asdict(self))

    def is_for(self, folder: Path, uri: str) -> bool:
        """Whether this is the offset of that folder and server."""
        return (self.folder, self.uri) == (str(folder.resolve()), without_secrets(uri))

    def restart(self, run_id: str) -> None:
        """Set all offsets to 0, for a new run."""
        self.run_id, self.stats, self.events = run_id, 0, 0
        self.ahead, self.status = [], ""

    def events_left(self) -> list[tuple[int, bytes]]:
        """Lines of ``events.jsonl`` that the server lacks, each with its first byte."""
        left, start = [], self.events
        known = {first for first, _ in self.ahead}
        for line in whole_lines(Path(self.folder) / EVENTS, start):
            if start not in known:
                left.append((start, line))
            start += len(line)
        return left

    def sent(self, start: int, line: bytes) -> None:
        """Record that the server has the line that starts at byte ``start``."""
        self.ahead.append([start, start + len(line)])
        ends = {first: end for first, end in self.ahead}
        while self.events in ends:
            self.events = ends.pop(self.events)
        self.ahead = [list(item) for item in ends.items()]
        self.save()

    def unsent(self) -> tuple[int, int]:
        """The number of lines that the server lacks, and how many of them are files."""
        events = [line for _, line in self.events_left()]
        files = [line for line in events if _is_file(line)]
        stats = whole_lines(Path(self.folder) / STATS, self.stats)
        return len(events) + len(stats), len(files)


def load_offset(folder: Path, uri: str) -> Offset:
    """The saved offset of ``folder`` on the server ``uri``; a new one if none is saved."""
    shown = without_secrets(uri)
    blank = Offset(str(folder.resolve()), shown)
    try:
        text = _place(folder, shown, "json").read_text(encoding="utf-8")
        known = Offset(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return blank
    return known if known.is_for(folder, uri) else blank


@contextmanager
def single_uploader(folder: Path, uri: str) -> Iterator[bool]:
    """Hold the lock on sending ``folder`` to ``uri``; yields whether this process has it."""
    lock = file_lock(_place(folder, without_secrets(uri), "lock"))
    is_ours = try_lock(lock)
    try:
        yield is_ours
    finally:
        lock.release()


def _place(folder: Path, uri: str, suffix: str) -> Path:
    described = read_run(folder) or {}  # a new folder at the same path is another run
    identity = (str(described.get("uid")), uri, str(folder.resolve()))
    mark = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:24]
    return offsets_folder() / f"{mark}.{suffix}"


def _is_file(line: bytes) -> bool:
    return (parse_row(line) or {}).get("kind") in FILE_KINDS
