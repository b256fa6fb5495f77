"""What a run holds that is needed to make it again."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import DataError
from sg3flow.provenance.files import DIFF, PROVENANCE, read_packages, read_provenance
from sg3flow.provenance.git_tree import diff_digest
from sg3flow.reporting import snapshot_digests

_SHOWN_ID = 12
_NEEDED = {
    "run": ("uid", "fingerprint"),
    "params": ("kimg", "batch"),
    "code": ("commit",),
    "data": ("path", "name", "digest", "num_images", "resolution"),
    "compute": ("device", "threads", "ops"),
}


@dataclass(frozen=True)
class Record:
    """One training, as its folder or the tracking server tells of it.

    Attributes:
        folder: where its files are: run.json, provenance.json and those beside them.
        run: content of run.json.
        provenance: content of provenance.json.
        digests: SHA-256 by file name of its snapshots.
        origin: where it was found, in words.
    """

    folder: Path
    run: Mapping[str, Any]
    provenance: Mapping[str, Any]
    digests: Mapping[str, str]
    origin: str

    @property
    def short_id(self) -> str:
        """The run's identity, short enough for a folder's name."""
        return str(self.run["uid"])[:_SHOWN_ID]

    @property
    def commit(self) -> str:
        """Commit of the code that trained."""
        return str(self.provenance["code"]["commit"])

    @property
    def data(self) -> Mapping[str, Any]:
        """What it was trained on."""
        found: Mapping[str, Any] = self.provenance["data"]
        return found

    @property
    def network(self) -> Mapping[str, Any]:
        """The network it started from, as ``network_facts`` tells; empty: none, or not recorded."""
        found = self.provenance.get("network")
        return found if isinstance(found, Mapping) else {}

    @property
    def packages(self) -> dict[str, str]:
        """Packages that were installed."""
        return read_packages(self.folder)

    def snapshot_at(self, kimg: int) -> str:
        """File name of the snapshot that a training of ``kimg`` ends with."""
        batch = int(self.run["params"]["batch"])
        return f"network-snapshot-{math.ceil(kimg * 1000 / batch) * batch // 1000:06d}.pkl"

    def diff(self) -> bytes:
        """Changes that were not committed; empty: none.

        Raises:
            DataError: they were not kept, or not as they were.
        """
        told = self.provenance["code"].get("diff", {})
        if not told.get("bytes"):
            return b""
        if not told["complete"]:
            raise DataError(
                f"the run had {told['bytes']} bytes of uncommitted changes, too many to be kept: "
                "it cannot be made again from its record"
            )
        try:
            content = (self.folder / DIFF).read_bytes()
        except OSError:
            content = b""
        if diff_digest(content) != told["sha256"]:
            raise DataError(
                f"{self.folder / DIFF} is missing or is not what the run recorded (SHA-256 "
                f"{told['sha256'][:12]}…); take the run's folder from the machine that trained"
            )
        return content


def read_record(folder: Path, digests: Mapping[str, str] | None = None, origin: str = "") -> Record:
    """Read the record in a folder.

    Args:
        digests: of the snapshots, if they are known from elsewhere than ``digests.jsonl``.
        origin: where the folder came from; empty: it is the run's own.

    Raises:
        DataError: it holds none, or one that is damaged.
    """
    origin = origin or str(folder)
    run = _read_json(folder / "run.json", origin)
    provenance = read_provenance(folder)
    if provenance is None:
        raise DataError(
            f"{origin} has no readable {PROVENANCE}: it was trained by an earlier version, or not "
            "all of it was sent (`sg3flow sync` on the machine that trained)"
        )
    digests = snapshot_digests(folder) if digests is None else digests
    record = Record(folder, run, provenance, dict(digests), origin)
    if missing := _missing(record):
        raise DataError(f"the record of {origin} is damaged: it does not tell {missing[0]}")
    return record


def _missing(record: Record) -> list[str]:
    """What a record must tell and does not."""
    parts: dict[str, Any] = {"run": record.run}
    parts |= {name: record.provenance.get(name) for name in ("code", "data", "compute")}
    parts |= {"params": record.run.get("params")}
    return [
        f"{part}.{key}"
        for part, keys in _NEEDED.items()
        for key in keys
        if not isinstance(parts[part], Mapping) or key not in parts[part]
    ]


def _read_json(path: Path, origin: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{origin} has no readable {path.name}; it is no training of this project")
    return content
