"""Writes the provenance of a run: code, packages, data, network, machine and settings.

Also finds the recorded packed set again.
"""

import importlib.metadata
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sg3flow.addresses import shown_url, without_secrets, without_webhooks
from sg3flow.data.archive import PackedSet
from sg3flow.data.raw_images import read_source
from sg3flow.errors import ConfigError, DataError, listed
from sg3flow.files import sha256_file, write_bytes, write_json, write_text
from sg3flow.params_file import read_params
from sg3flow.runs.code_state import MOST_DIFF_BYTES, code_folder, code_info, user_name
from sg3flow.runs.machine import compute_info, deciding_variables, machine_info
from sg3flow.runs.run_folder import (
    DIFF,
    PACKAGES,
    PROVENANCE,
    PROVENANCE_FORMAT,
    format_packages,
    read_provenance,
)
from sg3flow.runs.set_names import pack_subset, packed_name
from sg3flow.settings import PROJECT_FILES, project_root


def installed_packages() -> dict[str, str]:
    """Version by normalized name of every installed package; the first on the path counts."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.name
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return dict(sorted(found.items()))


_SOURCE_KEYS = ("dataset", "origin", "sha256", "bytes", "licence", "citation", "counts")


def data_info(packed: PackedSet, label_dim: int) -> dict[str, Any]:
    """Path, digest, counts and license of a packed set, and of its source if that is known."""
    source = _source_of(packed.path)
    return {
        "path": str(packed.path),
        "name": packed.name,
        "title": set_title(packed, source),
        "digest": packed.digest,
        "num_images": packed.num_images,
        "resolution": packed.resolution,
        "channels": packed.channels,
        "class_counts": _class_counts(packed) if label_dim else {},
        "licence": packed.license or "",
        "citation": packed.citation or "",
        "source": source,
    }


def set_title(packed: PackedSet, source: Mapping[str, Any] | None = None) -> str:
    """The name of a packed set for people.

    Args:
        source: the content of its SOURCE.json, if that was read already.
    """
    source = _source_of(packed.path) if source is None else source
    subset = pack_subset(Path()) if source else ""
    return packed_name(packed.name, source, subset, packed.resolution)


def _class_counts(packed: PackedSet) -> dict[str, int]:
    """Number of images per class; empty: the labels are not classes."""
    if packed.label_dim > 1000:
        return {}
    labels = [packed.label(index) for index in range(packed.num_images)]
    if any(label.sum() != 1 or label.max() != 1 for label in labels):
        return {}
    counts = Counter(int(label.argmax()) for label in labels)
    names = packed.class_names or []
    return {names[c] if c < len(names) else str(c): counts[c] for c in sorted(counts)}


def _source_of(packed: Path) -> dict[str, Any]:
    """The content of SOURCE.json in the folder that the pipeline packed."""
    for folder in _made_from(packed):
        if (content := read_source(folder)) is not None:
            known = {key: content[key] for key in _SOURCE_KEYS if content.get(key) is not None}
            return {k: without_secrets(v) if isinstance(v, str) else v for k, v in known.items()}
    return {}


def _made_from(packed: Path) -> list[Path]:
    """The dependencies of ``packed`` in the ``dvc.lock`` of the current folder."""
    for stage in locked_stages(Path("dvc.lock")).values():
        outs = [Path(out["path"]).resolve() for out in stage.get("outs", [])]
        if packed.resolve() in outs:
            return [Path(dep["path"]) for dep in stage.get("deps", [])]
    return []


def locked_stages(path: Path) -> Mapping[str, Any]:
    """The stages in a ``dvc.lock``; none if it is missing or damaged."""
    try:
        stages = read_params(path).get("stages")
    except (ConfigError, OSError):
        return {}
    return stages if isinstance(stages, dict) else {}


_PIPELINE_SET = Path("data/packed.zip")  # where the pipeline packs


def find_training_set(run_dir: Path, training_set: Mapping[str, Any], name: str) -> PackedSet:
    """The packed set of a training: where its record says, or where the pipeline packs.

    Args:
        run_dir: the folder of the network; it may hold the record of its training.
        training_set: its description in the network's file or in ``run.json``.
        name: of the network or the run, for messages.

    Raises:
        DataError: it is not there, or only with other content.
    """
    digest = training_set.get("digest")
    recorded, places = _recorded_places(run_dir, training_set)
    found = [path for path in places if path.exists()]
    for path in found:
        with suppress(DataError):
            packed = PackedSet(path)
            if not digest or packed.digest == digest:
                return packed
    states = [f"{path} is another or a damaged one" for path in found]
    missing = [f"there is no {recorded}"] if recorded else []
    raise DataError(
        f"the packed set that {name} was trained on ({_set_words(training_set)}) was not found: "
        f"{listed(states or missing or ['its path is not recorded'], 3)}; "
        "give --data PATH (in Python, b)"
    )


def _recorded_places(
    run_dir: Path, training_set: Mapping[str, Any]
) -> tuple[Path | None, list[Path]]:
    """The recorded path of a packed set, and where it may be from here."""
    if not training_set.get("digest"):  # a public pickle: nothing but its path is to go by
        path = training_set.get("path")
        return (Path(path), [Path(path)]) if isinstance(path, str) and path else (None, [])
    record = read_provenance(run_dir) or {}
    recorded = Path((record.get("data") or {}).get("path") or _PIPELINE_SET)
    here = (Path(), project_root() / record.get("folder", "."), project_root())
    # The run folder may belong to another project, or to one that was moved: PROJECT/runs/train.
    above = run_dir.absolute().parents[:3]
    places = ((base / recorded).absolute() for base in (*here, *above))
    return recorded, list(dict.fromkeys(places))


def _set_words(training_set: Mapping[str, Any]) -> str:
    known = training_set.get("name") or training_set.get("path")
    if not known:
        return "a set that it does not name"
    digest = str(training_set.get("digest") or "")
    return f"{str(known)[:200]}" + (f" (digest {digest[:12]}…)" if digest else "")


def network_info(source: str, digest: str) -> dict[str, Any]:
    """The record of the network that ``source`` names; empty: none.

    ``shortened``: a password or a query was removed from the URL.
    """
    if not source:
        return {}
    shown = without_secrets(source)
    return {"source": shown, "shortened": shown != source, "sha256": digest}


def network_digest(path: Path) -> str:
    """SHA-256 of a network file, or of the only one in a folder; empty: not exactly one."""
    files = [path] if path.is_file() else sorted(path.rglob("*.pkl"))
    files = files or sorted(path.rglob("*.safetensors"))
    return sha256_file(files[0]) if len(files) == 1 else ""


# In YAML a URL ends at a quote.
_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")
_NOTE = b"\nsg3flow: cut off here; the whole diff has %d bytes\n"


def write_provenance(work: Path, device: torch.device, known: Mapping[str, Any]) -> list[Path]:
    """Write the provenance of a training that starts; returns the files, the main one first.

    Args:
        work: the run's folder.
        known: from the training itself, for example its data and the digest of its numerics.
    """
    earlier = read_provenance(work)
    content: dict[str, Any] = {
        "format": PROVENANCE_FORMAT,
        "reproduce": f"sg3flow reproduce {known['uid']}" if "uid" in known else "",
        "script": Path(sys.argv[0]).name,
        "user": user_name(),
        "dvc_exp": os.environ.get("DVC_EXP_NAME", ""),
        "mlflow_run": os.environ.get("MLFLOW_RUN_ID", ""),  # of `mlflow run`
        "code": _write_code(work),
        "folder": _relative(Path.cwd(), code_folder()),
        "compute": compute_info(device),
        "variables": deciding_variables(),
        "machine": machine_info(),
        "files": _copy_project_files(work, Path.cwd()),
        **known,
    }
    content["setups"] = _setups(earlier, content)
    write_text(work / PACKAGES, format_packages(installed_packages()))
    write_json(work / PROVENANCE, content)
    names = (PROVENANCE, PACKAGES, DIFF, *PROJECT_FILES)
    return [work / name for name in names if (work / name).exists()]


def _write_code(work: Path) -> dict[str, Any]:
    facts, diff = code_info()
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
    """Copy the project files of the pipeline without passwords; SHA-256 by name."""
    digests = {}
    for name in PROJECT_FILES:
        (work / name).unlink(missing_ok=True)
        if (project / name).is_file():
            text = (project / name).read_text(encoding="utf-8", errors="replace")
            text = without_webhooks(text)
            write_text(work / name, _ADDRESS.sub(lambda found: shown_url(found[0]), text))
            if _is_readable(work / name):
                digests[name] = sha256_file(work / name)
            else:  # no copy is better than a broken one, after a URL that ends in a bracket
                (work / name).unlink()
    return digests


def _is_readable(path: Path) -> bool:
    try:
        read_params(path)
    except ConfigError:
        return False
    return True


def _setups(known: Mapping[str, Any] | None, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per start that differs from the start before in code or machine."""
    code, machine = content["code"], content["machine"]
    row = {
        "nimg": content.get("start_nimg", 0),
        "commit": code["commit"],
        "diff": code.get("diff", {}).get("sha256", ""),
        "cpu": machine["cpu"],
        "gpus": [gpu["name"] for gpu in machine["gpus"]],
        **content["compute"],
    }
    if not code.get("package_in_tree", True):  # then no commit tells versions apart
        row["version"] = code["version"]
    earlier = list(known["setups"]) if known else []
    last = {k: v for k, v in earlier[-1].items() if k not in ("time", "nimg")} if earlier else None
    if last == {k: v for k, v in row.items() if k != "nimg"}:
        return earlier
    return [*earlier, {"time": round(time.time())} | row]


def _relative(path: Path, base: Path) -> str:
    """``path`` relative to ``base`` if it is inside, so that it has no path of this machine."""
    if path.is_relative_to(base):
        return path.relative_to(base).as_posix()
    return str(path)
