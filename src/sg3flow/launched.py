"""What a process that torchrun started tells the one that started it. Light to import."""

import json
import os
import time
from pathlib import Path
from typing import Any

from sg3flow.errors import Interrupted

# Set by our own launcher: it says the error of its processes, so that they need not.
LAUNCHED = "SG3FLOW_LAUNCHED"
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # set by torchrun, read by it when the process has failed


def says_errors(error: BaseException) -> bool:
    """Whether this process prints its error itself; else our launcher does, for all of them."""
    if LAUNCHED not in os.environ or _ERROR_FILE not in os.environ:
        return True
    return isinstance(error, Interrupted) and os.environ.get("RANK") == "0"


def tell_failure(error: BaseException, message: str) -> None:
    """Leave the error where torchrun looks for it."""
    if _ERROR_FILE in os.environ:
        content = {"message": message, "timestamp": int(time.time()), "kind": type(error).__name__}
        Path(os.environ[_ERROR_FILE]).write_text(json.dumps(content), encoding="utf-8")


def failure_kind(content: Any) -> str:
    """The class of the error that ``tell_failure`` left; empty if none did."""
    return str(content.get("kind", "")) if isinstance(content, dict) else ""
