"""A finished pipeline takes the disk once, and a link shows no change of another place."""

import hashlib
import json
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


def test_the_best_snapshot_is_one_file_in_all_places(project):
    names = [path for path in project.rglob(SNAPSHOT) if path.is_file()]
    assert len(names) == 3 and len({path.stat().st_ino for path in names}) == 1
    assert (project / "runs/best.pkl").samefile(names[0])
    assert names[0].stat().st_nlink == 5  # the fifth name is its digest, in DVC's cache
    assert {path.relative_to(project).parts[0] for path in names} == {"mlruns", "runs", "state"}


def test_a_file_that_grows_or_belongs_to_the_user_is_linked_to_nothing(project):
    for path in [*project.glob("state/*/run/*.jsonl"), project / "params.yaml"]:
        assert path.stat().st_nlink == 1 and os.access(path, os.W_OK)


def cached(project: Path) -> dict[str, str]:
    """Digest of the content of each file of DVC's cache, by the digest that is its name."""
    files = (project / ".dvc/cache/files/md5").glob("*/*")
    names = {path: path.parent.name + path.name.removesuffix(".dir") for path in files}
    return {name: hashlib.md5(path.read_bytes()).hexdigest() for path, name in names.items()}


class Linked:
    """A copy of the finished pipeline whose links are links, too."""

    def __init__(self, finished, folder: Path) -> None:
        subprocess.run(["cp", "-a", str(finished.folder), str(folder)], check=True)
        self.folder = folder
        self.environment = finished.environment | {"PYTHONPATH": str(folder / "src")}
        names = (folder / "runs/train").glob("*.pkl")
        self.digests = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in names}

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def linked(finished_pipeline, tmp_path, project) -> Linked:
    return Linked(finished_pipeline, tmp_path / "p")


def test_commands_that_write_outputs_leave_the_cache_and_the_store_alone(linked):
    """They replace the linked files; one that wrote in place would change all names at once."""
    folder, run = linked.folder, linked.run
    before = cached(folder)
    [artifact] = (folder / "mlruns").rglob(SNAPSHOT)
    snapshot = artifact.read_bytes()
    assert all(name == digest for name, digest in before.items()) and len(before) > 20
    for protected in ("runs/train/" + SNAPSHOT, "reports/metrics.json"):
        assert (folder / protected).stat().st_mode & 0o777 == 0o444
    # Each writes over its linked outputs: other metrics, a longer training.
    run("sg3flow", "evaluate", "snapshots", "--params=params.yaml", "--seed=1", "--snapshots=last")
    run("sg3flow", "train", "--params=params.yaml", "--data=data/packed.zip",
        "--run-dir=runs/train", "--kimg=2")  # fmt: skip
    assert cached(folder) == before and artifact.read_bytes() == snapshot
    run("dvc", "checkout", "--force")
    assert cached(folder) == before
    assert snapshots(folder / "runs/train") == [0, 1]


def snapshots(folder: Path) -> list[int]:
    return sorted(int(path.stem[-6:]) for path in folder.rglob("network-snapshot-*.pkl"))


def test_snapshots_are_pruned_after_evaluate_and_dvc_knows_it(linked):
    folder, run, params = linked.folder, linked.run, linked.folder / "params.yaml"
    report = json.loads((folder / "reports/metrics.json").read_text())
    assert report["kimg"] == 1  # so that the other one may go
    settings = params.read_text()
    params.write_text(settings.replace("gamma: 0.2", "gamma: 0.3"))
    with pytest.raises(AssertionError, match="train changed; run `dvc repro` first"):
        run("sg3flow", "clean", "--snapshots=best 1")
    params.write_text(settings)
    places = [folder / name for name in ("runs/train", "state", "mlruns")]
    assert [snapshots(place) for place in places] == [[0, 1]] * 3
    run("sg3flow", "clean", "--snapshots=best 1")
    assert [snapshots(place) for place in places] == [[1]] * 3
    assert "up to date" in run("dvc", "status")
    gone = linked.digests["network-snapshot-000000.pkl"]
    assert gone in cached(folder)  # an earlier dvc.lock names it
    run("dvc", "gc", "--workspace", "--force")
    assert gone not in cached(folder)
