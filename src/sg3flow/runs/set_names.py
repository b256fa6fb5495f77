"""Names of data sets for people: ``afhq-cat 256x256`` instead of ``packed``."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.data.raw_images import read_source
from sg3flow.errors import ConfigError
from sg3flow.params_file import read_params

_PIPELINE_NAME = "packed"  # how dvc.yaml calls every packed set
_SPLITS = ("train", "val", "test", "images")


def source_name(source: Mapping[str, Any], subset: str = "") -> str:
    """The name of fetched images: of a known set, a folder, a file or a URL.

    Args:
        source: the content of SOURCE.json; empty: not known.
        subset: the part of them that was packed, such as ``afhq/train/cat``.
    """
    given = str(source.get("dataset") or "").rstrip("/")
    name = re.split(r"[/\\]", given.partition("?")[0])[-1]
    name = re.sub(r"\.(zip|tar|tar\.gz|tgz|parquet)$", "", name)
    parts = [part for part in PurePosixPath(subset).parts if part not in (*_SPLITS, name)]
    return "-".join(part for part in (name, *parts[-1:]) if part)


def packed_name(file_name: str, source: Mapping[str, Any], subset: str, resolution: int) -> str:
    """The name of a packed set with its resolution.

    Args:
        file_name: of the packed set, without suffix.
        source: as in ``source_name``.
        subset: as in ``source_name``.
    """
    name = file_name if file_name != _PIPELINE_NAME else source_name(source, subset) or file_name
    size = f"{resolution}x{resolution}"
    return name if not resolution or size in name else f"{name} {size}"


def without_size(title: str) -> str:
    """The name of a packed set without its resolution."""
    return re.sub(r"[ _-]*\d+x\d+$", "", title) or title


@dataclass(frozen=True)
class FetchedSet:
    """What is known of a packed set before it is read: its file, its images and their subset."""

    file_name: str
    source: Mapping[str, Any]
    subset: str

    @property
    def name(self) -> str:
        """Its name."""
        return self.title(0)

    def title(self, resolution: int) -> str:
        """Its name with the resolution; 0: not known."""
        return packed_name(self.file_name, self.source, self.subset, resolution)


def fetched_set(raw: Path | None, file_name: str, subset: str) -> FetchedSet:
    """The set that is packed from the images in ``raw``.

    Args:
        raw: the folder that ``fetch`` wrote, or another source; None: not known.
        file_name: of the packed set, without suffix.
        subset: as in ``source_name``.
    """
    source = read_source(raw) if raw is not None else None
    return FetchedSet(file_name, source or {}, subset)


def common_side(sizes: Iterable[str]) -> int:
    """The side of the first of some sizes, such as ``32x32 RGB``; 0: there is none."""
    found = re.match(r"(\d+)x\d+", next(iter(sizes), ""))
    return int(found[1]) if found else 0


def pack_subset(project: Path) -> str:
    """``pack.subset`` of the settings in a folder; empty: not set."""
    try:
        section = read_params(project / "params.yaml").get("pack")
    except (ConfigError, OSError):
        return ""
    return str(section.get("subset") or "") if isinstance(section, dict) else ""
