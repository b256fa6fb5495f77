"""A finished pipeline takes the disk once, and a link shows no change of another place."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium
MOST = 1.5  # times one copy of everything
SNAPSHOT = "network-snapshot-000001.pkl"


@pytest.fixture(scope="module")
def disk():
    """The benchmark, as its script finds its modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        import disk

        yield disk


def has_hard_links(folder: Path) -> bool:
    try:
        os.link(folder / "params.yaml", folder / "linked")
    except OSError:
        return False
    (folder / "linked").unlink()
    return True


@pytest.fixture
def project(finished_pipeline) -> Path:
    folder = finished_pipeline.folder
    if not has_hard_links(folder):
        pytest.skip("this disk has no hard links")
    return folder


def test_everything_stands_about_once(project, disk):
    usage = disk.measure(project)
    assert usage.ratio <= MOST
    places = {row.place: row for row in usage.rows}
    assert places[".dvc/cache"].named > 0.5 * places["runs"].named  # else this measured nothing
    assert places["state"].named > places["runs"].named
    assert sum(row.named for row in usage.rows) > MOST * usage.one_copy  # as copies, it would not


def test_a_snapshot_is_one_file_in_four_places(project):
    names = [path for path in project.rglob(SNAPSHOT) if path.is_file()]
    assert len(names) == 3 and len({path.stat().st_ino for path in names}) == 1
    assert names[0].stat().st_nlink == 4  # the fourth name is its digest, in DVC's cache
    assert {path.relative_to(project).parts[0] for path in names} == {"mlruns", "runs", "state"}


def test_a_file_that_grows_or_belongs_to_the_user_is_linked_to_nothing(project):
    for path in [*project.glob("state/*/run/*.jsonl"), project / "params.yaml"]:
        assert path.stat().st_nlink == 1 and os.access(path, os.W_OK)


def cached(project: Path) -> dict[str, str]:
    """Digest of the content of each file of DVC's cache, by the digest that is its name."""
    files = (project / ".dvc/cache/files/md5").glob("*/*")
    names = {path: path.parent.name + path.name.removesuffix(".dir") for path in files}
    return {name: hashlib.md5(path.read_bytes()).hexdigest() for path, name in names.items()}


def test_commands_that_write_outputs_leave_the_cache_and_the_store_alone(
    finished_pipeline, tmp_path, project
):
    """They replace the linked files; one that wrote in place would change all names at once."""
    copied = tmp_path / "p"
    subprocess.run(["cp", "-a", str(project), str(copied)], check=True)  # links stay links
    environment = finished_pipeline.environment | {"PYTHONPATH": str(copied / "src")}

    def run(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=copied, env=environment, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()

    before = cached(copied)
    [artifact] = (copied / "mlruns").rglob(SNAPSHOT)
    snapshot = artifact.read_bytes()
    assert all(name == digest for name, digest in before.items()) and len(before) > 20
    for protected in ("runs/train/" + SNAPSHOT, "reports/metrics.json"):
        assert (copied / protected).stat().st_mode & 0o777 == 0o444
    # Each writes over its linked outputs: other metrics, a longer training.
    run("sg3flow", "evaluate", "snapshots", "--params=params.yaml", "--seed=1", "--snapshots=last")
    run("sg3flow", "train", "--params=params.yaml", "--data=data/packed.zip",
        "--run-dir=runs/train", "--kimg=2")  # fmt: skip
    assert cached(copied) == before and artifact.read_bytes() == snapshot
    run("dvc", "checkout", "--force")
    assert cached(copied) == before
    assert sorted(path.name for path in (copied / "runs/train").glob("*.pkl")) == [
        f"network-snapshot-00000{kimg}.pkl" for kimg in (0, 1)
    ]
