"""Notifications of a training: a JSON POST at its end, a failure, or an early warning.

A notification is sent in a thread of its own. No step waits for it, and a receiver that fails,
hangs or redirects costs the training one warning. The address of a chat webhook is a secret: it
goes into no record and no message, which show the host only.

docs/watching.md describes the content for receivers.
"""

import contextlib
import datetime
import math
import platform
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sg3flow.addresses import REMOVED, shown_host, without_secrets
from sg3flow.errors import ConfigError, DivergedError, Sg3flowError, TrainingInterruptedError, cut
from sg3flow.runs.run_folder import STATS, list_metric_files, read_run, whole_rows
from sg3flow.settings import NOTIFY

FORMAT = "sg3flow-notification-1"
EVENTS = ("end", "interruption", "error", "divergence", "collapse", "overfit", "memorization")

_CONNECT_SEC, _ANSWER_SEC = 5.0, 10.0
# How long the end of a training waits for what is on its way; after Ctrl-C, hardly.
_LAST_WAIT_SEC, _LAST_WAIT_AFTER_INTERRUPT_SEC = 12.0, 0.5


def notify_url(setting: str) -> str:
    """The address of notifications: the setting, or else ``SG3FLOW_NOTIFY``; empty: none.

    Raises:
        ConfigError: it is not an http or https URL; the message does not contain it.
    """
    url, name = setting or NOTIFY.text(), "train.notify" if setting else NOTIFY.name
    if not url:
        return ""
    if not url.lower().startswith(("http://", "https://")):
        raise ConfigError(f"{name} must begin with http:// or https:// ({_kind(url)} was given)")
    if url.endswith(REMOVED):
        raise ConfigError(
            f"{name} is from the record of a training, which has the host only; give the whole URL"
        )
    if not _is_usable(url):
        raise ConfigError(f"{name} is not a URL: https://HOST/PATH of plain letters was expected")
    return url


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and all(32 < ord(c) < 127 for c in url)
    except ValueError:
        return False


def _kind(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    is_scheme = separator and len(scheme) <= 20 and scheme.isalnum()
    return f"{scheme}://" if is_scheme else "another text"


@dataclass
class Notifier:
    """Sends the notifications of a training; without a URL it does nothing.

    Attributes:
        url: as ``notify_url`` returns it.
        work: the run folder, which has the run's name, id, kimg and metrics.
    """

    url: str
    work: Path
    _threads: list[threading.Thread] = field(default_factory=list)

    def send(self, event: str, message: str) -> None:
        """Send a notification and return at once.

        Args:
            event: one of ``EVENTS``.
        """
        if not self.url:
            return
        try:
            body = notification(event, message, self.work)
            thread = threading.Thread(target=self._post, args=(body,), daemon=True)
            thread.start()
        except Exception as error:  # a damaged record, no more threads: no reason to stop
            self._warn(f"cannot be told ({type(error).__name__})")
        else:
            self._threads.append(thread)

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Send how the block ended, and wait a little for its arrival."""
        wait_sec = _LAST_WAIT_SEC
        try:
            yield
            self.send("end", "the training is complete")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                wait_sec = _LAST_WAIT_AFTER_INTERRUPT_SEC
            self.send(event_of(error), _words(error))
            raise
        finally:
            self._wait(wait_sec)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        if any(thread.is_alive() for thread in self._threads):
            self._warn("takes too long to answer")

    def _post(self, body: dict[str, Any]) -> None:
        import requests

        timeout = (_CONNECT_SEC, _ANSWER_SEC)
        try:
            # Only the status is read. A redirect would take the secret elsewhere.
            with requests.post(
                self.url, json=body, timeout=timeout, allow_redirects=False, stream=True
            ) as response:
                if not 200 <= response.status_code < 300:
                    self._warn(f"answers {response.status_code}")
        except requests.exceptions.SSLError:
            self._warn("has no valid certificate")
        except requests.Timeout:
            self._warn(f"does not answer within {_ANSWER_SEC:g} s")
        except Exception as error:  # its text has the URL
            self._warn(f"cannot be reached ({type(error).__name__})")

    def _warn(self, problem: str) -> None:
        print(
            f"warning: notification not delivered: {shown_host(self.url)} {problem}; the training "
            "is not affected",
            file=sys.stderr,
            flush=True,
        )


def event_of(error: BaseException) -> str:
    """The event that the end of a training by an error is."""
    if isinstance(error, TrainingInterruptedError | KeyboardInterrupt):
        return "interruption"
    return "divergence" if isinstance(error, DivergedError) else "error"


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    known = text if isinstance(error, Sg3flowError) else f"{type(error).__name__}: {text}"
    return without_secrets(cut(known, 1000))


def notification(event: str, message: str, work: Path) -> dict[str, Any]:
    """The content of a notification, from the record in the run folder.

    ``text`` is what chats show.
    """
    run = read_run(work) or {}
    stats = next(reversed(whole_rows(work / STATS)), {"nimg": 0})
    kimg, name, host = stats.get("nimg", 0) / 1000, run.get("name", ""), platform.node()
    return {
        "format": FORMAT,
        "event": event,
        "run": name,
        "run_id": run.get("uid", ""),
        "kimg": kimg,
        "message": message,
        "metrics": _latest_values(stats, work),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": host,
        "text": f"sg3flow {event}: {name} at {kimg:g} kimg on {host}: {message}",
    }


def _latest_values(stats: dict[str, Any], work: Path) -> dict[str, float]:
    """Losses and diversity of the last report, and the last values of metrics; finite ones."""
    shown = (
        "Loss/",
        "Diversity/",
        "Overfit/",
        "Memorization/",
        "Progress/augment",
        "Timing/sec_per_kimg",
    )
    rows = {name: row for name, row in stats.items() if name.startswith(shown)}
    values = {name: row["mean"] for name, row in rows.items() if isinstance(row, dict)}
    for path in list_metric_files(work):
        for row in whole_rows(path):
            values |= row.get("results", {})
    return {name: value for name, value in values.items() if math.isfinite(value)}
