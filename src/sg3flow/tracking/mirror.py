"""MLflow as a mirror of a training folder.

The folder is the truth: ``run.json`` (what the run is), ``stats.jsonl`` (a line a tick) and
``events.jsonl`` (pictures, snapshots, files). A thread sends what is new, remembers how far it got
in ``mirror.json``, and tries again later when the server does not answer: training never waits for
it. Sending twice does no harm: the run is found by a tag, a metric point with the same time and
value is one point, a snapshot's model is looked up before it is made.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import Interrupted, Sg3flowError, TrackingError
from sg3flow.files import write_json
from sg3flow.provenance.files import read_packages, read_provenance
from sg3flow.tracking.pictures import log_picture, logged_pictures
from sg3flow.tracking.provenance import recorded_tags

_POLL_SEC = 2.0
_LONGEST_WAIT_SEC = 30.0
_DRAIN_SEC = 60.0
_BATCH_METRICS = 1000  # MLflow takes no more in one request


@dataclass
class Position:
    """How far a folder has been sent to one tracking server, in bytes of the two files."""

    uri: str
    run_id: str
    stats: int = 0
    events: int = 0


class FolderMirror:
    """Sends what a training folder holds and the tracking server does not have yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._position: Position | None = None
        self._known_pictures: set[tuple[str, int]] = set()

    def send_new(self) -> None:
        """Send everything that is new.

        Raises:
            TrackingError: the server does not answer; what was sent until then is remembered.
        """
        from sg3flow.tracking.store import connect, tracking_errors

        store = connect()
        with tracking_errors(store.uri):
            position = self._open_run(store)
            self._send_stats(store, position)
            self._send_events(store, position)

    def finish(self, status: str) -> None:
        """Send the rest and set the run's status."""
        from sg3flow.tracking.store import connect, tracking_errors

        self.send_new()
        store = connect()
        with tracking_errors(store.uri):
            assert self._position is not None
            store.client.set_terminated(self._position.run_id, status)

    def is_complete(self) -> bool:
        """Whether the present tracking server has everything, as far as this folder knows."""
        from sg3flow.tracking.store import tracking_uri

        known = self._read_position()
        return known is not None and known.uri == tracking_uri() and self.unsent() == 0

    def unsent(self) -> int:
        """Lines that the server does not have yet."""
        position = self._position or self._read_position() or Position("", "")
        stats = _whole_lines(self.folder / "stats.jsonl", position.stats)
        return len(stats) + len(_whole_lines(self.folder / "events.jsonl", position.events))

    def _open_run(self, store: Any) -> Position:
        """The run on this server, made if need be, and how far it was sent."""
        if self._position is not None and self._position.uri == store.uri:
            return self._position
        known = self._read_position()
        run_id = find_or_create_run(store, self.folder)
        is_known = known is not None and (known.uri, known.run_id) == (store.uri, run_id)
        self._position = known if known and is_known else Position(store.uri, run_id)
        # An earlier mirror may have got further than it could note: a point that goes twice is one
        # point, a picture would be two.
        self._known_pictures = logged_pictures(store.client, run_id)
        store.client.update_run(run_id, status="RUNNING")
        return self._position

    def _read_position(self) -> Position | None:
        try:
            content = json.loads((self.folder / "mirror.json").read_text(encoding="utf-8"))
            return Position(**content)
        except (OSError, ValueError, TypeError):
            return None

    def _remember(self, position: Position) -> None:
        write_json(self.folder / "mirror.json", asdict(position))

    def _send_stats(self, store: Any, position: Position) -> None:
        from mlflow.entities import Metric

        lines = _whole_lines(self.folder / "stats.jsonl", position.stats)
        if not lines:
            return
        metrics = [
            # The time in the file is part of the point's identity: a replay adds nothing.
            Metric(name, value["mean"], int(row["timestamp"] * 1000), row["nimg"] // 1000)
            for row in map(json.loads, lines)
            for name, value in row.items()
            if isinstance(value, dict)
        ]
        for start in range(0, len(metrics), _BATCH_METRICS):
            store.client.log_batch(position.run_id, metrics[start : start + _BATCH_METRICS])
        position.stats += sum(map(len, lines))
        self._remember(position)

    def _send_events(self, store: Any, position: Position) -> None:
        path = self.folder / "events.jsonl"
        for line in _whole_lines(path, position.events):
            event = json.loads(line)
            if (event["key"], event["nimg"] // 1000) not in self._known_pictures:
                _send_event(store, position.run_id, self.folder, event)
            position.events += len(line)
            self._remember(position)


def find_or_create_run(store: Any, folder: Path) -> str:
    """The MLflow run of a training folder, made if it is missing, with all that describes it.

    The description is sent whenever a mirror begins: an earlier one may have been cut off between
    making the run and describing it.
    """
    from sg3flow.tracking.store import find_run

    described = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    tags = {
        "sg3flow.stage": "train",
        "sg3flow.uid": described["uid"],
        "sg3flow.fingerprint": described["fingerprint"],
        "sg3flow.command": described["command"],
        "sg3flow.kimg": str(described["params"]["kimg"]),
    }
    provenance = read_provenance(folder)
    tags |= recorded_tags(provenance, read_packages(folder))
    run_id = find_run(store, described["uid"])
    if run_id is None:
        if provenance and provenance["mlflow_run"]:
            tags["mlflow.parentRunId"] = provenance["mlflow_run"]
        created = store.client.create_run(
            store.experiment_id, int(time.time() * 1000), tags, run_name=described["name"]
        )
        run_id = str(created.info.run_id)
    _describe_run(store, run_id, described, tags)
    _attach_data(store, run_id, folder, described)
    return run_id


def _describe_run(store: Any, run_id: str, described: dict[str, Any], tags: dict[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    # A parameter cannot be changed: a run that was made longer keeps its first kimg there, and has
    # the present one as a tag.
    sent = store.client.get_run(run_id).data.params
    params = [Param(k, str(v)) for k, v in described["params"].items() if k not in sent]
    store.client.log_batch(run_id, params=params, tags=[RunTag(k, v) for k, v in tags.items()])


def _attach_data(store: Any, run_id: str, folder: Path, described: dict[str, Any]) -> None:
    from sg3flow.tracking.datasets import log_dataset

    data = described["training_set"]
    more = (read_provenance(folder) or {}).get("data", {})
    profile = {k: v for k, v in data.items() if k not in ("name", "digest")} | {
        key: more[key] for key in ("class_counts", "source") if more.get(key)
    }
    source = more.get("source", {}).get("origin") or more.get("path", "")
    log_dataset(
        store.client,
        run_id,
        name=data["name"],
        digest=data["digest"],
        source=source,
        profile=profile,
    )


def _send_event(store: Any, run_id: str, folder: Path, event: dict[str, Any]) -> None:
    from sg3flow.tracking.models import find_snapshot_model, log_snapshot_model

    path, kimg = folder / event["file"], event["nimg"] // 1000
    if not path.is_file():  # somebody tidied up: there is nothing to send any more
        return
    if event["kind"] == "snapshot":
        log_snapshot_model(store, run_id, path, kimg)
    elif event["kind"] == "image":
        log_picture(store.client, run_id, path, event["key"], kimg)
    elif event["kind"] == "metric":
        model_id = find_snapshot_model(store, run_id, event["file"])
        # The time is part of the point's identity: a replay adds nothing.
        store.client.log_metric(
            run_id,
            event["key"],
            event["value"],
            timestamp=int(event["timestamp"] * 1000),
            step=kimg,
            model_id=model_id,
        )
    else:
        store.client.log_artifact(run_id, str(path))


def _whole_lines(path: Path, start: int) -> list[bytes]:
    if not path.exists():
        return []
    with path.open("rb") as stream:
        stream.seek(start)
        content = stream.read()
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


@contextmanager
def mirrored(folder: Path) -> Iterator[None]:
    """Mirror a training folder to MLflow from a thread while the block runs.

    At the end the rest is sent for a bounded time; what is left then stays in the folder and is
    sent by ``sg3flow sync``. Nothing here ever raises into the training.
    """
    mirror = FolderMirror(folder)
    ended = threading.Event()
    thread = threading.Thread(target=_mirror_until, args=(mirror, ended), daemon=True)
    thread.start()
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        ended.set()
        thread.join(_DRAIN_SEC)
        _finish_or_warn(mirror, thread, status)


def _mirror_until(mirror: FolderMirror, ended: threading.Event) -> None:
    wait = _POLL_SEC
    told = False
    while not ended.wait(wait):
        try:
            mirror.send_new()
            wait, told = _POLL_SEC, False
        except Sg3flowError as error:
            wait = min(wait * 2, _LONGEST_WAIT_SEC)
            if not told:
                print(f"warning: {error}; training goes on, will try again", file=sys.stderr)
                told = True


def _finish_or_warn(mirror: FolderMirror, thread: threading.Thread, status: str) -> None:
    try:
        if thread.is_alive():
            raise TrackingError("the tracking server does not answer")
        mirror.finish(status)
    except Sg3flowError as error:
        print(
            f"warning: {error}; {mirror.unsent()} lines are not tracked yet: run `sg3flow sync "
            f"{mirror.folder}` when the server is back",
            file=sys.stderr,
        )
