r"""Makes the network that comes with this package from a snapshot, with its record and license.

It is run once per trained network, from a clone of the project:

    python -m sg3flow.runs.bundle_network runs/train/network-snapshot-000400.pkl \
        --recipe recipes/starter-network.yaml

The folder of the snapshot must be that of its run. If that training started from a snapshot of
another one, ``--resumed-from`` names it, also in the folder of its run; repeated, if that one
started from an earlier one, the newest first. The result replaces
``src/sg3flow/checkpoints/starter`` and is to be committed.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sg3flow.checkpoints.bundled_network import write_bundled
from sg3flow.checkpoints.network_catalog import NETWORKS, STARTER
from sg3flow.errors import DataError, Sg3flowError
from sg3flow.files import atomic_folder, sha256_file, write_json, write_text
from sg3flow.runs.code_state import code_folder
from sg3flow.runs.run_folder import read_options, read_provenance, snapshot_kimg

FORMAT = "sg3flow-bundled-run-1"
RECORD_NAME, RECIPE_NAME, LICENSE_NAME = "record.json", "recipe.yaml", "LICENSE"
MOST_BYTES = 8_000_000

_DATA = ("name", "digest", "num_images", "resolution", "channels", "class_counts", "licence")


def bundle(
    snapshot: Path,
    folder: Path,
    license_file: Path,
    recipe: Path | None = None,
    resumed_from: Sequence[Path] = (),
) -> Path:
    """Replace ``folder`` by the network of ``snapshot``; returns its file.

    Besides the weights it holds ``record.json`` (which snapshot of which run, with which settings,
    code and data), ``recipe.yaml`` and ``LICENSE``. None of them has a path of this machine.

    Args:
        license_file: the text of the network's license.
        recipe: settings that make the network again; None: those of the run's training.
        resumed_from: the snapshots of earlier trainings that the run started from, the newest
            first; the record then holds all of them.

    Raises:
        CheckpointError: not a snapshot, or it cannot be stored.
        DataError: the run has no record, it started from another snapshot than ``resumed_from``,
            or the file would be larger than 8 MB.
        OSError: a file cannot be read or written.
    """
    record = _training_record(snapshot, resumed_from)
    with atomic_folder(folder) as work:
        weights = work / "network.safetensors"
        write_bundled(snapshot, weights)
        size = weights.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{snapshot} takes {size} bytes; a bundled network has {MOST_BYTES}")
        stored = {"format": FORMAT, "sha256": sha256_file(weights), "bytes": size}
        write_json(work / RECORD_NAME, stored | record)
        if recipe is None:
            settings = {**record["settings"], "kimg": record["snapshot"]["kimg"]}
            write_text(work / RECIPE_NAME, _recipe_text(settings))
        else:
            shutil.copyfile(recipe, work / RECIPE_NAME)
        shutil.copyfile(license_file, work / LICENSE_NAME)
    return folder / "network.safetensors"


def _training_record(snapshot: Path, resumed_from: Sequence[Path]) -> dict[str, Any]:
    """What made a snapshot, without paths of this machine; with what it was resumed from, if so."""
    provenance, settings = read_provenance(snapshot.parent), read_options(snapshot.parent)
    if provenance is None or not settings:
        raise DataError(
            f"{snapshot.parent} has no record of a training; give the snapshot in its run folder"
        )
    data, kimg = provenance.get("data") or {}, snapshot_kimg(snapshot.name) or 0
    setups = [each for each in provenance.get("setups", []) if each.get("nimg", 0) < 1000 * kimg]
    record = {
        "snapshot": {"name": snapshot.name, "kimg": kimg, "sha256": sha256_file(snapshot)},
        "uid": provenance.get("uid", ""),
        "fingerprint": provenance.get("fingerprint", ""),
        "numerics": provenance.get("numerics", ""),
        "version": (provenance.get("code") or {}).get("version", ""),
        "data": {key: data[key] for key in _DATA if key in data},
        "settings": dict(settings),
        "setups": setups,
    }
    if not settings.get("resume"):
        return record
    earlier = _resumed_record(snapshot, provenance, resumed_from)
    record["settings"]["resume"] = earlier["snapshot"]["name"]
    return record | {"resumed_from": earlier}


def _resumed_record(
    snapshot: Path, provenance: Mapping[str, Any], resumed_from: Sequence[Path]
) -> dict[str, Any]:
    """The record of the training that another one started from."""
    started = (provenance.get("network") or {}).get("sha256", "")
    if not resumed_from:
        raise DataError(
            f"the training of {snapshot} started from a snapshot with the SHA-256 {started}; name "
            "it, in its run folder, with --resumed-from"
        )
    earlier = _training_record(resumed_from[0], resumed_from[1:])
    if earlier["snapshot"]["sha256"] != started:
        raise DataError(
            f"the training of {snapshot} started from a snapshot with the SHA-256 {started}, not "
            f"from {resumed_from[0]}"
        )
    return earlier


def _recipe_text(settings: Mapping[str, Any]) -> str:
    """The settings of the training as a section of a params file; JSON values are YAML."""
    lines = [f"  {name}: {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(
        ["# The training that made the network beside this file.", "train:", *lines, ""]
    )


def main() -> None:
    """The command of this module."""
    parser = argparse.ArgumentParser(description="Make the bundled network from a snapshot.")
    parser.add_argument("snapshot", type=Path, help="network-snapshot-<kimg>.pkl in its run folder")
    parser.add_argument("--recipe", type=Path, help="params file that makes the network again")
    parser.add_argument(
        "--resumed-from",
        type=Path,
        action="append",
        default=[],
        help="snapshot of an earlier training that it started from; repeatable, newest first",
    )
    given = parser.parse_args()
    dest = NETWORKS[STARTER].bundled
    assert dest is not None
    try:
        license_file = code_folder() / "LICENSE"
        path = bundle(given.snapshot, dest.parent, license_file, given.recipe, given.resumed_from)
    except (Sg3flowError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{path}: {path.stat().st_size} bytes, SHA-256 {sha256_file(path)}")


if __name__ == "__main__":
    main()
