"""Bytes on disk of a finished pipeline, by place, and how many of them are copies.

    python benchmarks/disk.py                      # runs a small pipeline with 10 snapshots
    python benchmarks/disk.py --project DIR        # measures a pipeline that has run

A file with several names (hard links) takes its space once, in the first place of the table that
has it. "One copy" is every distinct content once: what no sharing of files could go below. Space is
what the disk allocates (st_blocks), so a file of one byte counts as a block. File systems that
share blocks between files (reflinks) report shared blocks for each of them: there the total is too
high, and `df` before and after tells more.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from checkouts import Checkout
from sg3flow.files import sha256_file
from sg3flow.settings import KERNELS, kernels_folder

ROOT = Path(__file__).parents[1]
# What the pipeline makes, in the order of the pipeline. `dvc gc`, `mlflow gc` and `sg3flow clean`
# remove from the later ones.
PLACES = ("code", "data", "runs", "renders", "reports", "state", "mlruns", "mlflow.db")
CACHE = ".dvc/cache"
_BLOCK = 512  # of st_blocks
# Small images and networks, but snapshots that outweigh a block of the disk. With a batch of 100
# and a tick of one kimg, kimg 9 makes 10 snapshots: one before the first step, one a kimg.
_PARAMS = {
    "fetch": {"images": 60, "resolution": 32},
    "pack": {"resolution": "16x16"},
    "validate": {"min_images": 40, "min_class_images": 10},
    "train": {"batch": 100, "cbase": 128, "cmax": 4, "map_depth": 1, "workers": 0}
    | {"grid": "2x2"},
    "evaluate": {"metrics": ["fd_random20_full"], "best_by": "fd_random20_full", "batch": 10},
    "render": {"seeds": "0-2", "video_seeds": "0-1", "video_frames": 4},
}


class Row(NamedTuple):
    """One place: files, bytes if every name were a copy, and bytes that no earlier place has."""

    place: str
    files: int
    named: int
    on_disk: int


class Usage(NamedTuple):
    """All places of a project, and the bytes of one copy of every distinct content."""

    rows: list[Row]
    one_copy: int

    @property
    def total(self) -> int:
        """Bytes on disk."""
        return sum(row.on_disk for row in self.rows)

    @property
    def ratio(self) -> float:
        """How many times the disk holds what one copy would take."""
        return self.total / self.one_copy


def measure(project: Path) -> Usage:
    """The bytes of a project's pipeline; source code and installed packages are not part of it."""
    rows, known, contents = [], set[tuple[int, int]](), dict[str, int]()
    for place in (*PLACES, CACHE):
        named = on_disk = count = 0
        for path in _files(project / place):
            status = path.stat()
            size = status.st_blocks * _BLOCK
            count, named = count + 1, named + size
            if (status.st_dev, status.st_ino) not in known:
                known.add((status.st_dev, status.st_ino))
                on_disk += size
                contents.setdefault(sha256_file(path), size)
        rows.append(Row(place, count, named, on_disk))
    return Usage(rows, sum(contents.values()))


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    for path in sorted(place.rglob("*")) if place.is_dir() else []:
        if path.is_file() and not path.is_symlink():
            yield path


def run_pipeline(project: Path, kimg: int) -> None:
    """Copy this checkout to a new project and run its pipeline with small settings."""
    os.environ.setdefault(KERNELS.name, str(kernels_folder()))  # the user's: no build is measured
    checkout = Checkout.copied("pipeline", ROOT, project)
    params = checkout.params()
    for section, settings in _PARAMS.items():
        params[section].update(settings)
    params["train"]["kimg"] = kimg
    checkout.use(params)
    checkout.run(sys.executable, "-m", "dvc", "repro")


def show(project: Path) -> None:
    """Print the table."""
    usage = measure(project)
    snapshots = sorted((project / "runs/train").glob("network-snapshot-*.pkl"))
    once = sum(path.stat().st_blocks * _BLOCK for path in snapshots)
    print(f"{'place':<12}{'files':>7}{'bytes if copied':>18}{'bytes on disk':>16}")
    for row in usage.rows:
        print(f"{row.place:<12}{row.files:>7}{row.named:>18,}{row.on_disk:>16,}")
    named = sum(row.named for row in usage.rows)
    print(f"{'total':<12}{'':>7}{named:>18,}{usage.total:>16,}")
    print(f"one copy of every content: {usage.one_copy:,}; ratio {usage.ratio:.2f}")
    states = sum(p.stat().st_blocks * _BLOCK for p in (project / "state").glob("*/states/*.pt"))
    print(f"{len(snapshots)} snapshots, once: {once:,}; the last states: {states:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, help="a project whose pipeline has run")
    parser.add_argument("--kimg", type=int, default=9, help="length; a snapshot each, and one at 0")
    parser.add_argument("--keep", type=Path, help="run in this new folder, and leave it there")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        project = given.project or given.keep or Path(scratch) / "project"
        if given.project is None:
            run_pipeline(project.absolute(), given.kimg)
        show(project)
        if given.json:
            usage = measure(project)
            content = {row.place: row._asdict() for row in usage.rows}
            given.json.write_text(json.dumps(content | {"one_copy": usage.one_copy}, indent=2))


if __name__ == "__main__":
    main()
