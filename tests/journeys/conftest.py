"""Journeys of three new users, each as the script of what they type, from a new folder on.

A journey is one long test: a step builds on those before it, and looks at what the user looks at.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

MOST_SEC = 600


@dataclass
class Terminal:
    """The shell of a user in a folder.

    Attributes:
        transcript: all commands so far with their output, shown if one fails.
    """

    folder: Path
    environment: Mapping[str, str]
    transcript: list[str] = field(default_factory=list)

    def __call__(self, command: str, *, fails: bool = False) -> str:
        """Run a command line; returns what it prints, its errors included.

        Args:
            fails: the user expects an error, which must be short and without a traceback.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MOST_SEC,
        )
        self.transcript.append(f"$ {command}\n{done.stdout}")
        told = "\n".join(self.transcript)[-6000:]
        assert (done.returncode != 0) == fails, f"exit status {done.returncode}\n{told}"
        assert "Traceback" not in done.stdout, told
        return done.stdout

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a program that runs until it is ended."""
        return subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture
def terminal(tmp_path) -> Callable[..., Terminal]:
    """Opens the shell of a new user: an activated environment and a home without settings."""

    def opened(folder: Path, environment: Mapping[str, str] | None = None) -> Terminal:
        folder.mkdir(parents=True, exist_ok=True)
        return Terminal(folder, environment or _new_user(tmp_path / "home"))

    return opened


def _new_user(home: Path) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    dropped = ("MLFLOW_", "SG3FLOW_", "DVC_", "GIT_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return kept | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SG3FLOW_KERNELS": os.environ["SG3FLOW_KERNELS"],
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "GIT_AUTHOR_NAME": "a user",
        "GIT_AUTHOR_EMAIL": "user@example.org",
        "GIT_COMMITTER_NAME": "a user",
        "GIT_COMMITTER_EMAIL": "user@example.org",
    }
