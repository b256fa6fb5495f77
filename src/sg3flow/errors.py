"""Errors meant for people.

    Sg3flowError
    |-- ConfigError       a setting is missing, unknown, of the wrong type or out of range
    |-- DataError         a picture, a packed set or a download cannot be used
    |-- CheckpointError   a snapshot, a state or a foreign pickle cannot be used
    |-- MetricError       a metric cannot be computed, or two results cannot be compared
    |-- TrackingError     the tracking server or the model registry cannot be used
    |   `-- TrainingMissing   the server does not have the training run (yet)
    |-- Diverged          a training whose numbers are no longer finite
    |-- OutOfMemory       a training step that does not fit
    |-- ProcessLost       a process of a training that has lost the others
    |-- Interrupted       a training that was asked to stop, and can go on

The message is one line that names the thing, the rule, the value found and the next step. A stage
prints it and ends with a non-zero exit; the traceback appears only with ``--debug``.
"""

import difflib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Sg3flowError(Exception):
    """Base of every error this project raises on purpose."""

    def __init__(self, message: str = "") -> None:
        # One line, whatever the names in it hold: those of files may have line breaks.
        super().__init__(" ".join(message.splitlines()))


class ConfigError(Sg3flowError):
    """A setting is missing, unknown, of the wrong type or out of range."""


class DataError(Sg3flowError):
    """A picture, a packed set or a download cannot be used."""


class CheckpointError(Sg3flowError):
    """A snapshot, a training state or a foreign pickle cannot be used."""


class MetricError(Sg3flowError):
    """A metric cannot be computed, or two results cannot be compared."""


class TrackingError(Sg3flowError):
    """The tracking server or the model registry cannot be used."""


class TrainingMissingError(TrackingError):
    """What belongs to a training run cannot be sent before that run is on the server."""


class DivergedError(Sg3flowError):
    """A training whose numbers are no longer finite."""


class TrainingMemoryError(Sg3flowError):
    """A training step that needs more memory than there is."""


class ProcessLostError(Sg3flowError):
    """One of several processes of a training no longer hears from another."""


class TrainingInterruptedError(Sg3flowError):
    """A training that was asked to stop before its end; the same command goes on from there."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name closest to ``name``, or an empty string.

    Capitals do not count, but of names that differ in them alone the one closer to ``name`` wins.
    """
    by_lower: dict[str, list[str]] = {}
    for each in known:
        by_lower.setdefault(each.lower(), []).append(each)
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    if not close:
        return ""
    best = max(by_lower[close[0]], key=lambda each: difflib.SequenceMatcher(a=name, b=each).ratio())
    return f" (did you mean '{best}'?)"


# Set by our own launcher: it says the error of its processes, so that they need not.
LAUNCHED = "SG3FLOW_LAUNCHED"
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # set by torchrun, read by it when the process has failed


def says_errors(error: BaseException) -> bool:
    """Whether this process prints its error itself; else our launcher does, for all of them."""
    if LAUNCHED not in os.environ or _ERROR_FILE not in os.environ:
        return True
    return isinstance(error, TrainingInterruptedError) and os.environ.get("RANK") == "0"


def tell_failure(error: BaseException, message: str) -> None:
    """Leave the error where torchrun looks for it."""
    if _ERROR_FILE in os.environ:
        content = {"message": message, "timestamp": int(time.time()), "kind": type(error).__name__}
        Path(os.environ[_ERROR_FILE]).write_text(json.dumps(content), encoding="utf-8")


def failure_kind(content: Any) -> str:
    """The class of the error that ``tell_failure`` left; empty if none did."""
    return str(content.get("kind", "")) if isinstance(content, dict) else ""
