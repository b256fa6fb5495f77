"""Where a result comes from: code version, packages, machine."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache

from sg3flow.project import project_root

_PACKAGES = ("sg3flow", "torch", "mlflow", "dvc", "great-expectations", "numpy", "scipy", "pillow")


@cache
def provenance_tags() -> dict[str, str]:
    """Tags every run carries: commit, whether the tree is dirty, package versions, machine."""
    tags = {
        "mlflow.source.name": os.path.basename(sys.argv[0]),
        "mlflow.source.type": "LOCAL",
        "mlflow.user": os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown",
        "sg3flow.python": platform.python_version(),
        "sg3flow.machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["sg3flow.git_dirty"] = str(bool(_git("status", "--porcelain", "-uno"))).lower()
    if os.environ.get("DVC_EXP_NAME"):
        tags["sg3flow.dvc_exp"] = os.environ["DVC_EXP_NAME"]
    for package in _PACKAGES:
        try:
            tags[f"sg3flow.version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tags


def _git(*arguments: str) -> str:
    """What git answers in the project's folder; empty where there is no git or no commit."""
    command = ["git", "-C", str(project_root()), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
