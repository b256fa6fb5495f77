"""The whole pipeline, as `dvc repro` runs it: all seven stages on tiny settings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

STAGES = ["fetch", "pack", "validate", "train", "evaluate", "render", "register"]
CHECK_TRACKING = """\
import json
from sg3flow.tracking.mlflow_store import connect
from sg3flow.tracking.tracked_runs import find_training
s = connect()
runs = s.client.search_runs([s.experiment_id])
assert all(r.info.status == 'FINISHED' for r in runs), runs
train = [r for r in runs if r.data.tags['sg3flow.stage'] == 'train']
assert len(train) == 1 and len(runs) == 7, [r.info.run_name for r in runs]
assert {'loss/G', 'metrics/fd_random20_full', 'metrics/eqt4_int'} <= set(train[0].data.metrics)
assert train[0].inputs.dataset_inputs[0].dataset.digest
models = s.client.search_logged_models([s.experiment_id])
measured = [m for m in models if m.name.startswith('network') and m.metrics]
assert len(measured) == 2, models
champion = find_training(s, 'sg3flow-starter@champion')
assert champion.info.run_id == train[0].info.run_id
found = s.client.search_registered_models()
print(json.dumps({m.name: sorted(m.aliases) for m in found}))
"""


@pytest.fixture(scope="module")
def copied(finished_pipeline, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    return finished_pipeline.copy(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def project(copied) -> Path:
    """The finished pipeline in a folder with a space."""
    return copied[0]


@pytest.fixture(scope="module")
def run(copied):
    """Runs Python with arguments in a folder, as its user."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**copied[1], "PYTHONPATH": str(folder / "src")}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)

    return run


@pytest.fixture(scope="module")
def dvc(run):
    """Runs DVC with arguments in a folder."""
    return lambda folder, *arguments: run(folder, "-m", "dvc", *arguments)


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def edit(folder: Path, old: str, new: str) -> None:
    params = folder / "params.yaml"
    text = params.read_text()
    assert old in text
    params.write_text(text.replace(old, new))


def test_from_nothing_to_a_registered_model(finished_pipeline, run):
    project = finished_pipeline.folder
    for stage in STAGES:
        assert f"Running stage '{stage}'" in finished_pipeline.output
    assert json.loads((project / "reports/validation.json").read_text())["success"]
    report = json.loads((project / "reports/evaluation.json").read_text())
    assert set(report["snapshots"]) == {"000000", "000001"}
    best = report["best"]
    summary = json.loads((project / "reports/metrics.json").read_text())
    assert summary == {"kimg": best["kimg"]} | report["snapshots"][f"{best['kimg']:06d}"]
    kept = project / "runs/train" / best["snapshot"]
    assert (project / "runs/best.pkl").read_bytes() == kept.read_bytes()
    assert (project / "runs/train/losses.csv").read_text().count("\n") == 2
    assert (project / "renders/interpolation.mp4").stat().st_size > 0
    registered = json.loads((project / "reports/registered.json").read_text())
    assert registered["version"] == "1" and "champion" in registered["aliases"]
    rows = [json.loads(r) for r in (project / "state/stage-times.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == STAGES
    done = run(project, "-c", CHECK_TRACKING)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"sg3flow-starter": ["candidate", "champion"]}


@pytest.mark.parametrize("no_scm", ["false", "true"])
def test_a_second_time_nothing_runs(project, dvc, no_scm):
    assert dvc(project, "config", "--local", "core.no_scm", no_scm).returncode == 0
    done = dvc(project, "repro")
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout
    assert dvc(project, "config", "--local", "--unset", "core.no_scm").returncode == 0


@pytest.fixture(scope="module")
def published(project, dvc) -> Path:
    """A clone of the finished project, whose data and results are in a remote of DVC."""
    remote, clone = project.parent / "remote", project.parent / "fresh clone"
    for command in (("remote", "add", "-d", "store", str(remote)), ("push",)):
        done = dvc(project, *command)
        assert done.returncode == 0, done.stderr
    commit(project, "finished")
    git(project.parent, "clone", "-q", str(project), str(clone))
    return clone


def test_a_finished_pipeline_travels_by_a_remote(project, dvc, published):
    assert not (published / "runs").exists() and not (published / "data").exists()
    done = dvc(published, "pull")
    assert done.returncode == 0, done.stderr
    done = dvc(published, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage" not in done.stdout and "are up to date" in done.stdout
    for name in ("runs/train/run.json", "renders/grid.png", "reports/metrics.json"):
        assert (published / name).read_bytes() == (project / name).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("published")
def test_the_champion_is_made_again_from_the_remote(project, run, dvc):
    """Neither its data nor DVC's cache are there any more; only the remote and git have them."""
    (project / "data" / "packed.zip").unlink()
    shutil.rmtree(project / ".dvc" / "cache")
    program = "from sg3flow.cli import main; main()"
    done = run(project, "-c", program, "reproduce", "sg3flow-starter@champion")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "network-snapshot-000001.pkl: equal" in done.stdout
    assert done.stdout.splitlines()[-1] == "equal: every snapshot has the recorded SHA-256"
    assert not (project / "data" / "packed.zip").exists()
    assert dvc(project, "pull").returncode == 0


def test_a_failing_expectation_stops_the_pipeline(project, dvc):
    edit(project, "min_class_images: 10", "min_class_images: 100")
    edit(project, "gamma: 0.2", "gamma: 0.3")
    done = dvc(project, "repro")
    assert done.returncode != 0
    assert "Running stage 'validate'" in done.stdout
    assert "Running stage 'train'" not in done.stdout
    assert not json.loads((project / "reports/validation.json").read_text())["success"]


def test_a_misspelled_setting_is_named(project, dvc):
    edit(project, "min_class_images: 100", "min_clas_images: 10")
    done = dvc(project, "repro", "validate")
    assert done.returncode != 0
    assert "did you mean 'min_class_images'" in done.stdout + done.stderr
