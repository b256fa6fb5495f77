"""Runs the pipeline and single stages of a checkout of sg3flow, with its code, in a separate
project, through its command lines only."""

import itertools
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

_KEPT = ("SG3FLOW_ISA", "SG3FLOW_KERNELS", "SG3FLOW_OPS")
_numbers = itertools.count(1)  # of the commands of both checkouts
_said = threading.Lock()


class CommandFailed(Exception):
    """A command of a checkout ended with an error; the message has its last line."""


@dataclass(frozen=True)
class Checkout:
    """A copy of a checkout's files that is a project: its data, state, caches and tracking store.

    Attributes:
        name: OLD or NEW.
        source: the checkout.
        project: the copy, where its commands run.
    """

    name: str
    source: Path
    project: Path

    @classmethod
    def copied(cls, name: str, source: Path, project: Path) -> "Checkout":
        """Copy the files that git does not ignore, with uncommitted changes."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=source,
            capture_output=True,
            check=False,
        )
        if listed.returncode or not (source / "stages" / "train.py").is_file():
            raise SystemExit(f"error: {source} is no checkout of sg3flow; name its root folder")
        for file in filter(None, os.fsdecode(listed.stdout).split("\0")):
            if (source / file).is_file():  # one that is deleted is still listed
                (project / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / file, project / file)
        checkout = cls(name, source, project)
        checkout.run(sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true")
        checkout._require_own_code()
        return checkout

    def params(self) -> dict[str, Any]:
        """The settings as the checkout has them in params.yaml."""
        content: dict[str, Any] = YAML(typ="safe").load(self.source / "params.yaml")
        return content

    def use(self, params: dict[str, Any]) -> None:
        """Write these settings to the project."""
        YAML(typ="safe").dump(params, self.project / "params.yaml")

    def stage(self, name: str, *options: str, **variables: str) -> str:
        """Run one stage; its output."""
        return self.run(sys.executable, f"stages/{name}.py", *options, **variables)

    def run(self, *command: str, **variables: str) -> str:
        """Run a command in the project; its output, which is also written to ``logs/`` there.

        Raises:
            CommandFailed: it ended with another exit code than 0.
        """
        start = time.monotonic()
        log = self.project / "logs" / f"{next(_numbers):03}.txt"
        log.parent.mkdir(exist_ok=True)
        title = f"$ {shlex.join(command)}\n".encode()
        with log.open("wb") as stream:
            stream.write(title)
            stream.flush()
            environment = self._environment() | variables
            done = subprocess.run(
                command, cwd=self.project, env=environment, stdout=stream, stderr=stream
            )
        output = log.read_bytes()[len(title) :].decode(errors="replace")
        if done.returncode:
            raise CommandFailed(f"{self.name}: {_short(command)} failed: {_reason(output)}")
        with _said:
            print(f"{self.name}: {_short(command)} ({time.monotonic() - start:.0f} s)", flush=True)
        return output

    def _environment(self) -> dict[str, str]:
        """Its own code, state, caches and tracking store; no GPU."""
        foreign = ("DVC_", "MLFLOW_", "SG3FLOW_", "PYTHON")
        kept = {k: v for k, v in os.environ.items() if k in _KEPT or not k.startswith(foreign)}
        programs = Path(sys.executable).parent
        own = {
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(self.project / "src"),
            "SG3FLOW_STATE_DIR": str(self.project / "state"),
            "SG3FLOW_CACHE": str(self.project / "cache"),
            "SG3FLOW_KERNELS": str(self.project / "cache" / "kernels"),
            "MLFLOW_TRACKING_URI": self.store,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # a cache that the user shares between projects would hand one's results to the other
            "DVC_GLOBAL_CONFIG_DIR": str(self.project / "no-config"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.project / "no-config"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        return own | kept | {name: own[name] for name in ("PATH", "CUDA_VISIBLE_DEVICES")}

    @property
    def store(self) -> str:
        """The address of its tracking store."""
        return f"sqlite:///{self.project / 'mlflow.db'}"

    def _require_own_code(self) -> None:
        code = "import sg3flow; print(sg3flow.__file__)"
        found = self.run(sys.executable, "-c", code).splitlines()[-1]
        if not Path(found).is_relative_to(self.project):
            raise SystemExit(f"error: {self.name} would run {found}, not its own code")


def _reason(output: str) -> str:
    """The first error of a command's output, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = (line for line in lines if line.startswith(("error:", "ERROR:")))
    return next(errors, lines[-1] if lines else "it said nothing")


def _short(command: tuple[str, ...]) -> str:
    """A command, shortened for messages: the program and its output."""
    if command[0] != sys.executable:
        return command[0]
    if command[1] == "-m":
        return " ".join(command[2:])
    if command[1] == "-c":
        return "python -c …"
    names = [name for name in ("--dest", "--run-dir", "--outdir") if name in command]
    outputs = [command[command.index(name) + 1] for name in names]
    return " ".join([command[1], *outputs])
