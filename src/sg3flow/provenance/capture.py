"""Writes down where a training comes from, into its own folder, when it starts.

``provenance.json`` tells code, data, machine and software; beside it lie ``code.diff`` (changes
that were not committed), ``packages.txt``, and the ``params.yaml`` and ``dvc.lock`` of that moment.
"""

import getpass
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import sg3flow
from sg3flow.files import copy_file, sha256_file, write_bytes, write_json, write_text
from sg3flow.provenance.git_tree import GitTree, diff_digest, git_tree
from sg3flow.provenance.machine import compute_facts, deciding_variables, machine_facts
from sg3flow.provenance.packages import format_packages, installed_packages, parse_packages

FORMAT = "sg3flow-provenance-1"
PROVENANCE, DIFF, PACKAGES = "provenance.json", "code.diff", "packages.txt"
PROJECT_FILES = ("params.yaml", "dvc.lock")

_MOST_DIFF_BYTES = 5_000_000
_MOST_NAMES = 50
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


def code_folder() -> Path:
    """The project's folder that the running code comes from.

    That of the package, if git has it: with an editable installation it is what runs, wherever the
    stage's script lies. Of an installed package: the folder of the script, or else this one.
    """
    package = Path(sg3flow.__file__).resolve()
    script = Path(sys.argv[0]).resolve()
    if git_tree(package.parent, tracked=package) is not None:
        return package.parents[2]
    return script.parents[1] if script.parent.name == "stages" else Path.cwd()


def user_name() -> str:
    """Who runs this, as far as the system says."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


def code_facts() -> tuple[dict[str, Any], bytes]:
    """Version, commit and state of the code that runs, and its uncommitted changes."""
    folder = code_folder()
    package = Path(sg3flow.__file__).resolve()
    facts: dict[str, Any] = {
        "version": sg3flow.__version__,
        "package_in_tree": folder / "src" / "sg3flow" == package.parent,
    }
    tree = git_tree(folder)
    if tree is None:
        return facts | {"commit": "", "dirty": False}, b""
    diff = tree.diff()
    return facts | _tree_facts(tree) | {"diff": _diff_facts(tree, diff)}, diff


def _tree_facts(tree: GitTree) -> dict[str, Any]:
    changed, untracked = tree.changed(), tree.untracked("src", "stages")
    return {
        "commit": tree.commit,
        "branch": tree.branch(),
        "remote": tree.remote(),
        "prefix": tree.prefix,
        "dirty": bool(changed),
        "changed": changed[:_MOST_NAMES],
        "untracked": untracked[:_MOST_NAMES],
    }


def _diff_facts(tree: GitTree, diff: bytes) -> dict[str, Any]:
    return {
        "bytes": len(diff),
        "sha256": diff_digest(diff),
        "complete": len(diff) <= _MOST_DIFF_BYTES,
        "withheld": tree.withheld()[:_MOST_NAMES],
    }


def _write_code(work: Path) -> dict[str, Any]:
    facts, diff = code_facts()
    (work / DIFF).unlink(missing_ok=True)  # of an earlier start
    if len(diff) > _MOST_DIFF_BYTES:
        write_bytes(work / DIFF, diff[:_MOST_DIFF_BYTES] + _NOTE % len(diff))
    elif diff:
        write_bytes(work / DIFF, diff)
    return facts


def _copy_project_files(work: Path, project: Path) -> dict[str, str]:
    """Copy what the pipeline says of itself; SHA-256 by name."""
    digests = {}
    for name in PROJECT_FILES:
        (work / name).unlink(missing_ok=True)
        if (project / name).is_file():
            copy_file(project / name, work / name)
            digests[name] = sha256_file(work / name)
    return digests


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
