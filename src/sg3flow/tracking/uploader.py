"""Sends what a tracking server lacks of a run folder; sending twice adds nothing.

The run is found by a tag, a metric point with the same time and value is one point, the name of an
image derives from its key and time, and the model of a snapshot is looked up before it is created.

MLflow is imported only to send: a stage imports this module, and MLflow's import takes a second.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sg3flow.errors import TrackingError, TrainingMissingError
from sg3flow.runs.run_folder import (
    EVENTS,
    RUN,
    STATS,
    read_packages,
    read_provenance,
    read_row,
    read_run,
    whole_lines,
)
from sg3flow.settings import Tag
from sg3flow.tracking.metric_names import grouped_name
from sg3flow.tracking.mlflow_store import (
    Store,
    connect,
    find_run,
    find_training_run,
    runs_tagged,
    tracking_errors,
    tracking_uri,
)
from sg3flow.tracking.outbox import (
    Offset,
    last_report,
    load_offset,
    noted_end,
    recorded_tags,
)
from sg3flow.tracking.run_notes import write_note
from sg3flow.tracking.saved_view import update_view

_BATCH_METRICS = 1000  # the limit of MLflow for one request
_REFUSED_WAIT_SEC = 300.0  # a refused file may be large: do not retry every few seconds


class Uploader:
    """Sends one run folder to the tracking server in force.

    Attributes:
        live: whether the stage still runs; else a run without an end was killed.
    """

    def __init__(
        self, folder: Path, *, live: bool = False, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self.live = folder, live
        self._on_progress = on_progress
        self._offset: Offset | None = None
        self._sent_state: object = None
        self._is_grouped: bool | None = None  # names of metrics; None: the run was not asked yet
        self._refused: dict[int, tuple[float, TrackingError]] = {}  # time and reason by first byte

    def send(self) -> None:
        """Send everything that is new.

        Raises:
            TrackingError: something could not be sent; the offset has what was sent.
        """
        state = self._state()
        if state == self._sent_state:
            return
        store = connect()
        try:
            with tracking_errors(store.uri):
                problems = self._send_all(store)
            if problems:
                raise min(problems, key=lambda problem: isinstance(problem, TrainingMissingError))
        except TrainingMissingError:
            raise
        except TrackingError:
            self._offset = None  # the run may be gone: look it up next time
            raise
        self._sent_state = state

    def send_own(self) -> None:
        """Send everything but what waits for the training run; ``sg3flow sync`` sends that later.

        Raises:
            TrackingError: as ``send``.
        """
        with suppress(TrainingMissingError):
            self.send()

    def is_complete(self) -> bool:
        """Whether the server has everything already.

        Raises:
            TrackingError: it does not answer.
        """
        offset = load_offset(self.folder, tracking_uri())
        if offset.unsent() != (0, 0) or offset.status != self._status():
            return False
        store = connect()
        with tracking_errors(store.uri):
            return find_run(store, self._described()["uid"]) == offset.run_id

    def is_deleted(self) -> bool:
        """Whether a user has deleted the run on the server: it must not come back."""
        store = connect()
        uid = self._described()["uid"]
        with tracking_errors(store.uri):
            return find_run(store, uid) is None and bool(runs_tagged(store, uid, deleted=True))

    def run_id(self) -> str:
        """The run on the server, after ``send``."""
        assert self._offset is not None
        return self._offset.run_id

    def _described(self) -> dict[str, Any]:
        described = read_run(self.folder)
        if described is None:
            raise TrackingError(f"{self.folder}/{RUN} is missing or damaged: cannot send it")
        return described

    def _state(self) -> object:
        """A value that changes whenever there may be something new to send."""
        files = (self.folder / name for name in (EVENTS, STATS))
        sizes = [path.stat().st_size if path.exists() else 0 for path in files]
        return tracking_uri(), self.live, sizes

    def _status(self) -> str:
        return noted_end(self.folder)[0] or ("RUNNING" if self.live else "KILLED")

    def _send_all(self, store: Store) -> list[TrackingError]:
        while True:
            offset = self._open(store)
            self._send_stats(store, offset)
            problems = self._send_events(store, offset)
            if self._send_status(store, offset):
                return problems

    def _open(self, store: Store) -> Offset:
        """Find or create the run, describe it, and load its offset."""
        if self._offset is None or not self._offset.is_for(self.folder, store.uri):
            offset = load_offset(self.folder, store.uri)
            run_id = find_or_create_run(store, self.folder, self._described())
            if offset.run_id != run_id:
                offset.restart(run_id)
            self._is_grouped = None
            self._offset = offset
        return self._offset

    def _send_stats(self, store: Store, offset: Offset) -> None:
        batch: list[Any] = []
        size, path = 0, self.folder / STATS
        if self._is_grouped is None and whole_lines(path, offset.stats):
            self._is_grouped = Tag.GROUPED in store.client.get_run(offset.run_id).data.tags
        for line in whole_lines(path, offset.stats):
            row = read_row(line, path, f"byte {offset.stats + size}")
            metrics = _metrics_of(row, bool(self._is_grouped))
            if len(batch) + len(metrics) > _BATCH_METRICS:
                self._send_batch(store, offset, batch, size)
                batch, size = [], 0
            batch += metrics
            size += len(line)
        if size:
            self._send_batch(store, offset, batch, size)

    def _send_batch(self, store: Store, offset: Offset, batch: list[Any], size: int) -> None:
        store.client.log_batch(offset.run_id, batch)
        offset.stats += size
        offset.save()
        self._on_progress()

    def _send_events(self, store: Store, offset: Offset) -> list[TrackingError]:
        """Send line by line; a line that the server refuses is skipped and retried later."""
        from sg3flow.tracking.event_upload import Target, send_event

        training = self._described().get("training")
        # Without a training, as for blends, what belongs to it belongs to the run of the stage.
        training_id = find_training_run(store, training["uid"]) if training else offset.run_id
        name = str(training.get("name", "")) if training else ""
        stage = str(self._described().get("stage", "train"))
        target = Target(store, self.folder, offset.run_id, training_id, name, stage)
        problems: list[TrackingError] = []
        for start, line in offset.events_left():
            when, reason = self._refused.get(start, (0.0, None))
            if reason is not None and self.live and time.monotonic() < when + _REFUSED_WAIT_SEC:
                problems.append(reason)
                continue
            try:
                with tracking_errors(store.uri):
                    send_event(target, read_row(line, self.folder / EVENTS, f"byte {start}"))
            except TrackingError as error:
                if error.__cause__ is not None:  # from the server: does it still answer?
                    _require_answer(store)
                    self._refused[start] = (time.monotonic(), error)
                problems.append(error)
            else:
                offset.sent(start, line)
                self._on_progress()
        return problems

    def _send_status(self, store: Store, offset: Offset) -> bool:
        """Set the run's status; False: everything must be sent to another run."""
        status = self._status()
        if status == offset.status:
            return True
        if status == "RUNNING":
            store.client.update_run(offset.run_id, status=status)
        elif find_or_create_run(store, self.folder, self._described()) != offset.run_id:
            # A request that was answered late has created the run a second time.
            self._offset = None
            return False
        else:
            ended = noted_end(self.folder)[1] or last_report(self.folder)
            store.client.set_terminated(offset.run_id, status, end_time=int(ended * 1000))
        offset.status = status
        offset.save()
        return True


def _require_answer(store: Store) -> None:
    """Raise the error of the client if the server does not answer."""
    try:
        store.client.get_experiment(store.experiment_id)
    except Exception:  # a refused upload may have broken the connection: try a new one
        store.client.get_experiment(store.experiment_id)


def find_or_create_run(store: Store, folder: Path, described: dict[str, Any]) -> str:
    """The MLflow run of a run folder, created if it is missing, with its description.

    The description is sent by every new uploader: an earlier one may have been interrupted between
    creating the run and describing it.
    """
    from sg3flow.tracking.event_upload import delete_snapshot_models

    tags = {Tag.UID: described["uid"], Tag.STAGE: described.get("stage", "train")}
    known = {"fingerprint": Tag.FINGERPRINT, "command": Tag.COMMAND}
    tags |= {tag: described[key] for key, tag in known.items() if key in described}
    if "kimg" in described["params"]:
        tags[Tag.KIMG] = str(described["params"]["kimg"])
    tags |= recorded_tags(read_provenance(folder), read_packages(folder))
    uid = described["uid"]
    if find_run(store, uid) is None:
        start_ms = int(described.get("started", time.time()) * 1000)  # older folders lack it
        # Only a new run: one of an earlier version keeps its names of metrics.
        own = tags | {Tag.GROUPED: "true"}
        store.client.create_run(store.experiment_id, start_ms, own, run_name=described["name"])
    run_id = find_run(store, uid)
    if run_id is None:
        raise TrackingError("MLflow created a run and does not find it; try again later")
    for run in runs_tagged(store, uid):
        if run.info.run_id != run_id:
            delete_snapshot_models(store, run)
            store.client.delete_run(run.info.run_id)
    _describe_run(store, run_id, described, tags)
    _attach_data(store, run_id, folder, described)
    if tags[Tag.STAGE] == "train":
        write_note(store, run_id)
        update_view(store, run_id)
    return run_id


def _describe_run(
    store: Store, run_id: str, described: dict[str, Any], tags: dict[str, str]
) -> None:
    from mlflow.entities import Param, RunTag

    # A parameter cannot be changed: after an extension of a run it has the first kimg, and a tag
    # has the present one.
    sent = store.client.get_run(run_id).data.params
    params = [Param(k, str(v)) for k, v in described["params"].items() if k not in sent]
    store.client.log_batch(run_id, params=params, tags=[RunTag(k, v) for k, v in tags.items()])


def _attach_data(store: Store, run_id: str, folder: Path, described: dict[str, Any]) -> None:
    from sg3flow.tracking.event_upload import log_dataset

    data = described.get("training_set")
    if data is None:
        return
    more = (read_provenance(folder) or {}).get("data", {})
    profile = {k: v for k, v in data.items() if k not in ("name", "digest")} | {
        key: more[key] for key in ("class_counts", "source") if more.get(key)
    }
    title = more.get("title") or data["name"]
    if title != data["name"]:
        profile["packed"] = data["name"]
    source = more.get("source", {}).get("origin") or more.get("path", "")
    log_dataset(
        store.client,
        run_id,
        name=title,
        digest=data["digest"],
        source=source,
        profile=profile,
    )


def _metrics_of(row: dict[str, Any], grouped: bool) -> list[Any]:
    from mlflow.entities import Metric

    # The time in the file identifies the point: sending it again adds nothing.
    time_ms, step = int(row["timestamp"] * 1000), row["nimg"] // 1000
    return [
        Metric(grouped_name(name) if grouped else name, value["mean"], time_ms, step)
        for name, value in row.items()
        if isinstance(value, dict)
    ]
