"""What a stage tells MLflow: written to a journal at once, sent by a process of its own.

The work of a stage never waits for the tracking server, and never fails because of it: what could
not be sent by the end stays in the journal, and a warning says how much that is.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sg3flow.errors import TrackingError
from sg3flow.tracking.outbox import Outbox, open_outbox
from sg3flow.tracking.upload_process import noted, uploading, warn_unsent


class StageRun:
    """One execution of a stage; every method writes a line to the journal."""

    def __init__(self, journal: Outbox) -> None:
        self._journal = journal

    def metrics(self, values: Mapping[str, float]) -> None:
        """Metrics of this stage's own run."""
        for name, value in values.items():
            self._journal.note("metric", key=name, value=float(value))

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file for the run's artifacts, as it is now; none if it is not there."""
        name = f"{folder}/{path.name}" if folder else path.name
        if path.is_file() and self._journal.keep(path, name):
            self._journal.note("artifact", key=folder, file=f"files/{name}")

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags of this stage's own run."""
        self._journal.note("tags", values=dict(values))

    def dataset(self, *, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """The data set this stage made or read."""
        values = {"name": name, "digest": digest, "source": source, "profile": dict(profile)}
        self._journal.note("dataset", values=values)

    def training_metrics(
        self, values: Mapping[str, float], kimg: int, snapshot: str | None = None
    ) -> None:
        """Metrics of the training run at ``kimg``, and of that snapshot's LoggedModel."""
        for name, value in values.items():
            self._journal.note(
                "metric",
                key=name,
                file=snapshot or "",
                nimg=kimg * 1000,
                value=float(value),
                on="training",
            )

    def training_image(self, path: Path, key: str, kimg: int) -> None:
        """A picture of the training run at ``kimg``, under the step slider of ``key``."""
        name = f"training/{key}{path.suffix}"
        if self._journal.keep(path, name):
            file = f"files/{name}"
            self._journal.note("image", key=key, file=file, nimg=kimg * 1000, on="training")


@contextmanager
def tracked_stage(stage: str, config: Any, training_run: Path | None = None) -> Iterator[StageRun]:
    """Track one execution of a stage: its settings at least, and what the block tells.

    Args:
        stage: name of the stage and of the run.
        config: the stage's settings, a dataclass.
        training_run: the training folder whose run this one belongs to, if any.
    """
    journal = open_outbox(stage, flat_params(config), training_run)
    with uploading(journal.folder, journal):
        yield StageRun(journal)


@contextmanager
def tracked_now(stage: str, config: Any, training_run: Path | None = None) -> Iterator[str]:
    """Track a stage that needs the server anyway, and its run's id at once.

    Yields:
        the id of the stage's run.

    Raises:
        TrackingError: the server does not take the run.
    """
    from sg3flow.tracking.uploader import Uploader

    journal = open_outbox(stage, flat_params(config), training_run)
    delivery = Uploader(journal.folder, live=True)
    try:
        with noted(journal):
            delivery.send_own()
            yield delivery.run_id()
    finally:
        try:
            delivery.send_own()
        except TrackingError as error:
            warn_unsent(journal.folder, str(error))


def flat_params(config: Any) -> dict[str, str]:
    """The settings of a stage as MLflow takes them: text by name; lists joined by commas."""
    values = dataclasses.asdict(config)
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
    }
