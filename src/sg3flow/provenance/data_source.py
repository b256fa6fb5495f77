"""Where a training's packed set comes from."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sg3flow.addresses import without_secrets
from sg3flow.data.archive import PackedSet
from sg3flow.data.source_record import read_source
from sg3flow.errors import ConfigError

_SOURCE_KEYS = ("dataset", "origin", "sha256", "bytes", "licence", "citation", "counts")


def data_facts(packed: PackedSet, label_dim: int) -> dict[str, Any]:
    """Path, digest, counts and terms of a packed set, and of its source where that is at hand."""
    return {
        "path": str(packed.path),
        "name": packed.name,
        "digest": packed.digest,
        "num_images": packed.num_images,
        "resolution": packed.resolution,
        "channels": packed.channels,
        "class_counts": _class_counts(packed) if label_dim else {},
        "licence": packed.licence or "",
        "citation": packed.citation or "",
        "source": _source_of(packed.path),
    }


def _class_counts(packed: PackedSet) -> dict[str, int]:
    """Pictures by class, where labels are classes."""
    if packed.label_dim > 1000:
        return {}
    labels = [packed.label(index) for index in range(packed.num_images)]
    if any(label.sum() != 1 or label.max() != 1 for label in labels):
        return {}
    counts = Counter(int(label.argmax()) for label in labels)
    names = packed.class_names or []
    return {names[c] if c < len(names) else str(c): counts[c] for c in sorted(counts)}


def _source_of(packed: Path) -> dict[str, Any]:
    """What the SOURCE.json says of the folder that the pipeline made the set from."""
    for folder in _made_from(packed):
        if (content := read_source(folder)) is not None:
            known = {key: content[key] for key in _SOURCE_KEYS if content.get(key) is not None}
            return {k: without_secrets(v) if isinstance(v, str) else v for k, v in known.items()}
    return {}


def _made_from(packed: Path) -> list[Path]:
    """Folders that ``dvc.lock``, in this folder, names as the source of ``packed``."""
    for stage in locked_stages(Path("dvc.lock")).values():
        outs = [Path(out["path"]).resolve() for out in stage.get("outs", [])]
        if packed.resolve() in outs:
            return [Path(dep["path"]) for dep in stage.get("deps", [])]
    return []


def locked_stages(path: Path) -> Mapping[str, Any]:
    """The stages in a ``dvc.lock``; none where it is missing or no such file."""
    from sg3flow.config import read_params

    try:
        stages = read_params(path).get("stages")
    except (ConfigError, OSError):
        return {}
    return stages if isinstance(stages, dict) else {}
