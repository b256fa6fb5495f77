"""Tracks one execution of a stage: lines in an outbox, which a separate process uploads.

A stage never waits for the tracking server during its work and never fails because of it. What is
not sent by its end stays in the outbox, and a warning says how much that is.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sg3flow.errors import TrackingError
from sg3flow.tracking.outbox import Outbox, open_outbox
from sg3flow.tracking.upload_process import recorded, uploading, warn_unsent


class StageRun:
    """One execution of a stage; each method appends a line to the outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def metrics(self, values: Mapping[str, float]) -> None:
        """Metrics of this stage's own run."""
        for name, value in values.items():
            self._outbox.note("metric", key=name, value=float(value))

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
        values = {"name": name, "digest": digest, "source": source, "profile": dict(profile)}
        self._outbox.note("dataset", values=values)

    def training_metrics(
        self, values: Mapping[str, float], kimg: int, snapshot: str | None = None
    ) -> None:
        """Metrics of the training run at ``kimg``, and of that snapshot's LoggedModel."""
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


@contextmanager
def tracked_stage(stage: str, config: Any, training_run: Path | None = None) -> Iterator[StageRun]:
    """Track one execution of a stage: its settings, and what the block reports.

    Args:
        stage: name of the stage and of the run.
        config: the stage's settings, a dataclass.
        training_run: the training folder whose run this one belongs to, if any.
    """
    outbox = open_outbox(stage, flat_params(config), training_run)
    with uploading(outbox.folder, outbox):
        yield StageRun(outbox)


@contextmanager
def tracked_now(stage: str, config: Any, training_run: Path | None = None) -> Iterator[str]:
    """Track a stage that needs the server and the id of its run at once.

    Yields:
        the id of the stage's run.

    Raises:
        TrackingError: the server does not accept the run.
    """
    from sg3flow.tracking.uploader import Uploader

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


def flat_params(config: Any) -> dict[str, str]:
    """The settings of a stage as MLflow takes them: text by name; lists joined by commas."""
    values = dataclasses.asdict(config)
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
    }
