"""The files in a run's folder that tell where it comes from: their names, and reading them."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from sg3flow.provenance.packages import parse_packages

FORMAT = "sg3flow-provenance-1"
PROVENANCE, DIFF, PACKAGES = "provenance.json", "code.diff", "packages.txt"
PROJECT_FILES = ("params.yaml", "dvc.lock")
CODE = ("src", "stages", "dvc.yaml")  # of the project: a change elsewhere makes no other code


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What ``capture`` wrote, or None where there is none of ours."""
    with suppress(OSError, ValueError):
        content = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return content
    return None


def read_packages(folder: Path) -> dict[str, str]:
    """Version by name of what was installed where a training ran; empty where nobody noted it."""
    try:
        return parse_packages((folder / PACKAGES).read_text(encoding="utf-8"))
    except OSError:
        return {}
