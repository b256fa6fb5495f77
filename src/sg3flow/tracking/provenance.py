"""Where a result comes from, as tags of an MLflow run."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from sg3flow.provenance.code import code_facts, user_name

_PACKAGES = ("sg3flow", "torch", "mlflow", "dvc", "great-expectations", "numpy", "scipy", "pillow")


@cache
def provenance_tags() -> dict[str, str]:
    """Tags of a stage that runs now, here: commit, state of the tree, package versions, machine."""
    code, _ = code_facts()
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    tags = {
        "mlflow.source.name": os.path.basename(sys.argv[0]),
        "sg3flow.python": platform.python_version(),
        "sg3flow.machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "sg3flow.dvc_exp": os.environ.get("DVC_EXP_NAME", ""),
    }
    return _filled(_common(code, user_name()) | tags | _version_tags(versions))


def recorded_tags(
    provenance: Mapping[str, Any] | None, versions: Mapping[str, str]
) -> dict[str, str]:
    """Tags of a training, from what its folder holds of the machine that trained.

    Args:
        provenance: content of the folder's ``provenance.json``; None: an old folder without one.
        versions: version by name of the packages that were installed there.
    """
    if provenance is None:
        return {}
    machine, compute, data = (provenance[key] for key in ("machine", "compute", "data"))
    gpus = [gpu["name"] for gpu in machine["gpus"]]
    tags = {
        "mlflow.source.name": provenance["script"],
        "sg3flow.reproduce": provenance["reproduce"],
        "sg3flow.python": compute["python"],
        "sg3flow.machine": f"{machine['system']} {machine['architecture']}",
        "sg3flow.cpu": f"{machine['cpu']}, {machine['usable_cores']} cores used",
        "sg3flow.memory_gib": str(machine["memory_gib"]),
        "sg3flow.gpu": ", ".join(gpus),
        "sg3flow.driver": machine["driver"],
        "sg3flow.cuda": compute["cuda"],
        "sg3flow.ops": compute["ops"],
        "sg3flow.threads": str(compute["threads"]),
        "sg3flow.seed": str(provenance["seed"]),
        "sg3flow.data": data["digest"],
        "sg3flow.licence": data["licence"],
        "sg3flow.dvc_exp": provenance["dvc_exp"],
        "mlflow.parentRunId": provenance["mlflow_run"],  # of `mlflow run`: ours stands below it
    }
    common = _common(provenance["code"], provenance["user"])
    return _filled(common | tags | _version_tags(versions))


def _common(code: Mapping[str, Any], user: str) -> dict[str, str]:
    tags = {"mlflow.source.type": "LOCAL", "mlflow.user": user}
    if code["commit"]:
        tags |= {
            "mlflow.source.git.commit": code["commit"],
            "mlflow.source.git.branch": code["branch"],
            "mlflow.source.git.repoURL": code["remote"],
            "sg3flow.git_dirty": str(code["dirty"]).lower(),
        }
    return tags


def _version_tags(versions: Mapping[str, str]) -> dict[str, str]:
    return {f"sg3flow.version.{name}": versions[name] for name in _PACKAGES if name in versions}


def _filled(tags: Mapping[str, str]) -> dict[str, str]:
    """Without tags that say nothing."""
    return {name: value for name, value in tags.items() if value}
