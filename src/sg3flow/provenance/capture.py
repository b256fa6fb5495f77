"""Writes down where a training comes from, into its own folder, when it starts.

``provenance.json`` tells code, data, machine and software; beside it lie ``code.diff`` (changes
that were not committed), ``packages.txt``, and the ``params.yaml`` and ``dvc.lock`` of that moment.
"""

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sg3flow.addresses import shown_url
from sg3flow.config import read_params
from sg3flow.errors import ConfigError
from sg3flow.files import sha256_file, write_bytes, write_json, write_text
from sg3flow.provenance.code import MOST_DIFF_BYTES, code_facts, code_folder, user_name
from sg3flow.provenance.files import (
    DIFF,
    FORMAT,
    PACKAGES,
    PROJECT_FILES,
    PROVENANCE,
    read_provenance,
)
from sg3flow.provenance.machine import compute_facts, deciding_variables, machine_facts
from sg3flow.provenance.packages import format_packages, installed_packages

# In YAML an address ends at a quote.
_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")
_NOTE = b"\nsg3flow: cut off here; the whole diff has %d bytes\n"


def capture(work: Path, device: torch.device, told: Mapping[str, Any]) -> list[Path]:
    """Write the provenance of the training that starts now; the files, the main one first.

    Args:
        work: the run's folder.
        told: what the training itself knows: its data and the digest of its numerics, say.
    """
    known = read_provenance(work)
    content: dict[str, Any] = {
        "format": FORMAT,
        "reproduce": f"sg3flow reproduce {told['uid']}" if "uid" in told else "",
        "script": Path(sys.argv[0]).name,
        "user": user_name(),
        "dvc_exp": os.environ.get("DVC_EXP_NAME", ""),
        "mlflow_run": os.environ.get("MLFLOW_RUN_ID", ""),  # of `mlflow run`
        "code": _write_code(work),
        "folder": _relative(Path.cwd(), code_folder()),
        "compute": compute_facts(device),
        "variables": deciding_variables(),
        "machine": machine_facts(),
        "files": _copy_project_files(work, Path.cwd()),
        **told,
    }
    content["setups"] = _setups(known, content)
    write_text(work / PACKAGES, format_packages(installed_packages()))
    write_json(work / PROVENANCE, content)
    names = (PROVENANCE, PACKAGES, DIFF, *PROJECT_FILES)
    return [work / name for name in names if (work / name).exists()]


def _write_code(work: Path) -> dict[str, Any]:
    facts, diff = code_facts()
    if "git_error" in facts:
        print(
            f"warning: commit and changes are not recorded, git says: {facts['git_error']}; this "
            "training cannot be reproduced",
            file=sys.stderr,
            flush=True,
        )
    (work / DIFF).unlink(missing_ok=True)  # of an earlier start
    if len(diff) > MOST_DIFF_BYTES:
        write_bytes(work / DIFF, diff[:MOST_DIFF_BYTES] + _NOTE % len(diff))
    elif diff:
        write_bytes(work / DIFF, diff)
    return facts


def _copy_project_files(work: Path, project: Path) -> dict[str, str]:
    """Copy what the pipeline says of itself, passwords left out; SHA-256 by name."""
    digests = {}
    for name in PROJECT_FILES:
        (work / name).unlink(missing_ok=True)
        if (project / name).is_file():
            text = (project / name).read_text(encoding="utf-8", errors="replace")
            write_text(work / name, _ADDRESS.sub(lambda found: shown_url(found[0]), text))
            if _is_readable(work / name):
                digests[name] = sha256_file(work / name)
            else:  # an address that ends in a bracket: better none than a broken one
                (work / name).unlink()
    return digests


def _is_readable(path: Path) -> bool:
    try:
        read_params(path)
    except ConfigError:
        return False
    return True


def _setups(known: Mapping[str, Any] | None, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each start that differs from the one before in code or machine."""
    code, machine = content["code"], content["machine"]
    row = {
        "nimg": content.get("start_nimg", 0),
        "commit": code["commit"],
        "diff": code.get("diff", {}).get("sha256", ""),
        "cpu": machine["cpu"],
        "gpus": [gpu["name"] for gpu in machine["gpus"]],
        **content["compute"],
    }
    earlier = list(known["setups"]) if known else []
    last = {k: v for k, v in earlier[-1].items() if k not in ("time", "nimg")} if earlier else None
    if last == {k: v for k, v in row.items() if k != "nimg"}:
        return earlier
    return [*earlier, {"time": round(time.time())} | row]


def _relative(path: Path, base: Path) -> str:
    """``path`` as seen from ``base`` if it lies there; it then says nothing of this machine."""
    if path.is_relative_to(base):
        return path.relative_to(base).as_posix()
    return str(path)
