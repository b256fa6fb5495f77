"""The errors that this project raises on purpose, and how a process reports them to torchrun.

    Sg3flowError
    |-- ConfigError         a setting is missing, unknown, of the wrong type or out of range
    |-- DataError           an image, a packed set or a download cannot be used
    |-- CheckpointError     a snapshot, a training state or a foreign pickle cannot be used
    |-- MetricError         a metric cannot be computed, or two results cannot be compared
    |-- TrackingError       the tracking server or the model registry cannot be used
    |   `-- TrainingMissingError    the server does not have the training run yet
    |-- DivergedError       the numbers of a training are no longer finite
    |-- TrainingMemoryError a training step needs more memory than there is
    |-- ProcessLostError    a process of a training has lost the others
    `-- TrainingInterruptedError    a training was asked to stop; it can be resumed

A message is one line that names the thing, the rule, the value found and the next step. A stage
prints it and exits with a non-zero code; the traceback appears only with ``--debug``. A value that
a file or a user gave is cut before it goes into a message: ``cut`` tells the length of a long text,
and ``described`` takes any value.
"""

import difflib
import json
import math
import os
import time
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any


class Sg3flowError(Exception):
    """Base of all errors of this project."""

    def __init__(self, message: str = "") -> None:
        # Names of files in a message may hold line breaks.
        super().__init__(bounded_message(" ".join(message.splitlines())))


class ConfigError(Sg3flowError):
    """A setting is missing, unknown, of the wrong type or out of range."""


class DataError(Sg3flowError):
    """An image, a packed set or a download cannot be used."""


class CheckpointError(Sg3flowError):
    """A snapshot, a training state or a foreign pickle cannot be used."""


class MetricError(Sg3flowError):
    """A metric cannot be computed, or two results cannot be compared."""


class TrackingError(Sg3flowError):
    """The tracking server or the model registry cannot be used."""


class TrainingMissingError(TrackingError):
    """Data of a training run cannot be sent before the server has that run."""


class DivergedError(Sg3flowError):
    """The numbers of a training are no longer finite."""


class TrainingMemoryError(Sg3flowError):
    """A training step needs more memory than there is."""


class ProcessLostError(Sg3flowError):
    """A process of a training has lost contact with the others."""


class TrainingInterruptedError(Sg3flowError):
    """A training was asked to stop before its end; the same command resumes it."""


_MOST_OF_A_VALUE, _MOST_OF_A_MESSAGE, _END_OF_A_MESSAGE = 60, 1000, 300
_MOST_BITS, _MOST_OF_A_NAME = 128, 250


def cut(text: str, most: int = _MOST_OF_A_VALUE) -> str:
    """``text`` for a message: a long one is its start, and its length."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def described(value: object) -> str:
    """A value of a file or a user, for a message; never its whole text.

    With aliases, a small YAML file holds lists whose text takes gigabytes, and Python refuses to
    print an integer of thousands of digits.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"'{cut(value)}'"
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"an integer of {int(value.bit_length() * math.log10(2)) + 1} digits"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Sized):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def bounded_message(text: str) -> str:
    """``text`` as UTF-8, without its middle if it is very long; its end tells the next step."""
    text = text.encode(errors="backslashreplace").decode()  # a path may hold any bytes
    if len(text) <= _MOST_OF_A_MESSAGE:
        return text
    return f"{text[: _MOST_OF_A_MESSAGE - _END_OF_A_MESSAGE]} … {text[-_END_OF_A_MESSAGE:]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name closest to ``name``, or an empty string.

    Case does not count, except between known names that differ only in case.
    """
    if len(name) > _MOST_OF_A_NAME:  # slow to compare
        return ""
    by_lower: dict[str, list[str]] = {}
    for each in known:
        by_lower.setdefault(each.lower(), []).append(each)
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    if not close:
        return ""
    best = max(by_lower[close[0]], key=lambda each: difflib.SequenceMatcher(a=name, b=each).ratio())
    return f" (did you mean '{best}'?)"


def listed(items: Iterable[str], most: int) -> str:
    """The first ``most`` items, separated by commas, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # set by torchrun, which reads it after a failure


def prints_error(error: BaseException, *, has_launcher: bool) -> bool:
    """Whether this process prints its error itself.

    Args:
        has_launcher: our launcher started this process; it prints one error for all processes.
    """
    if not has_launcher or _ERROR_FILE not in os.environ:
        return True
    return isinstance(error, TrainingInterruptedError) and os.environ.get("RANK") == "0"


def report_failure(error: BaseException, message: str) -> None:
    """Write the error to the file that torchrun reads."""
    if _ERROR_FILE in os.environ:
        content = {"message": message, "timestamp": int(time.time()), "kind": type(error).__name__}
        Path(os.environ[_ERROR_FILE]).write_text(json.dumps(content), encoding="utf-8")


def failure_kind(content: Any) -> str:
    """The class name of the error that ``report_failure`` wrote; empty: none."""
    return str(content.get("kind", "")) if isinstance(content, dict) else ""
