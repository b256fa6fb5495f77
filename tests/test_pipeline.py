"""The whole pipeline, as `dvc repro` runs it: all seven stages on tiny settings."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[1]

PARAMS = """\
fetch: {dataset: starter, images: 40, resolution: 32, seed: 0}
pack: {subset: starter/train, resolution: 16x16, labels: folders, duplicates: keep, max_rejects: 0}
validate:
  min_images: 30
  min_class_images: 10
  classes: 3
  min_contrast: 2.0
  max_rejects: 0
  duplicates: fail
train:
  cfg: stylegan3-t
  gpus: 1
  batch: 100
  gamma: 0.1
  cond: true
  aug: noaug
  cbase: 128
  cmax: 4
  map_depth: 1
  kimg: 1
  tick: 1
  snap: 1
  workers: 0
  grid: 2x2
evaluate: {metrics: [fd_random20_full, eqt4_int], best_by: fd_random20_full, batch: 10}
render: {seeds: 0-2, video_seeds: 0-1, video_frames: 4}
register: {name: sg3flow-tiny}
"""

STAGES = ["fetch", "pack", "validate", "train", "evaluate", "render", "register"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project, which git has and DVC knows nothing of, in a folder with a space."""
    folder = tmp_path_factory.mktemp("pipeline") / "a clone"
    folder.mkdir()
    for name in ("stages", "src", "profiles"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / ".dvcignore", folder)
    (folder / "params.yaml").write_text(PARAMS)
    dvc(folder, "init", "--no-scm", "-q")
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    dvc(folder, "config", "core.no_scm", "true")
    dvc(folder, "config", "core.autostage", "false")
    shutil.copy(ROOT / ".gitignore", folder)
    git(folder, "init", "-q", "-b", "work")
    commit(folder, "first")
    return folder


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "dvc", *arguments)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Byte code is written into the copy, as on a user's machine: it must not make stages run again.
    dropped = ("MLFLOW_", "SG3FLOW_", "PYTHONDONTWRITEBYTECODE")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    environment = inherited | {
        "PYTHONPATH": str(folder / "src"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


def edit(folder: Path, old: str, new: str) -> None:
    params = folder / "params.yaml"
    text = params.read_text()
    assert old in text
    params.write_text(text.replace(old, new))


def test_from_nothing_to_a_registered_model(project):
    done = dvc(project, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in STAGES:
        assert f"Running stage '{stage}'" in done.stdout
    assert json.loads((project / "reports/validation.json").read_text())["success"]
    report = json.loads((project / "reports/metrics.json").read_text())
    assert set(report["snapshots"]) == {"000000", "000001"}
    assert (project / "renders/interpolation.mp4").stat().st_size > 0
    registered = json.loads((project / "reports/registered.json").read_text())
    assert registered["version"] == "1" and "champion" in registered["aliases"]
    rows = [json.loads(r) for r in (project / "state/stage-times.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == STAGES
    assert check_tracking(project)["sg3flow-tiny"] == ["candidate", "champion"]


def check_tracking(project: Path) -> dict[str, list[str]]:
    program = (
        "import json\n"
        "from sg3flow.tracking.mlflow_store import connect\n"
        "s = connect()\n"
        "runs = s.client.search_runs([s.experiment_id])\n"
        "assert all(r.info.status == 'FINISHED' for r in runs), runs\n"
        "train = [r for r in runs if r.data.tags['sg3flow.stage'] == 'train']\n"
        "assert len(train) == 1 and len(runs) == 7, [r.info.run_name for r in runs]\n"
        "assert {'Loss/G/loss', 'fd_random20_full', 'eqt4_int'} <= set(train[0].data.metrics)\n"
        "assert train[0].inputs.dataset_inputs[0].dataset.digest\n"
        "models = s.client.search_logged_models([s.experiment_id])\n"
        "measured = [m for m in models if m.name.startswith('network') and m.metrics]\n"
        "assert len(measured) == 2, models\n"
        "from sg3flow.tracking.tracked_runs import find_training\n"
        "champion = find_training(s, 'sg3flow-tiny@champion')\n"
        "assert champion.info.run_id == train[0].info.run_id\n"
        "found = s.client.search_registered_models()\n"
        "print(json.dumps({m.name: sorted(m.aliases) for m in found}))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_time_nothing_runs(project):
    done = dvc(project, "repro")
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout


def test_a_finished_pipeline_travels_by_a_remote(project):
    remote, clone = project.parent / "remote", project.parent / "fresh clone"
    done = dvc(project, "remote", "add", "-d", "store", str(remote))
    assert done.returncode == 0, done.stderr
    done = dvc(project, "push")
    assert done.returncode == 0, done.stderr
    commit(project, "finished")
    git(project.parent, "clone", "-q", str(project), str(clone))
    assert not (clone / "runs").exists() and not (clone / "data").exists()
    done = dvc(clone, "pull")
    assert done.returncode == 0, done.stderr
    done = dvc(clone, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage" not in done.stdout and "are up to date" in done.stdout
    for name in ("runs/train/run.json", "renders/grid.png", "reports/metrics.json"):
        assert (clone / name).read_bytes() == (project / name).read_bytes()


@pytest.mark.slow
def test_the_champion_is_made_again_from_the_remote(project):
    """Neither its data nor DVC's cache are there any more; only the remote and git have them."""
    if not (project / "data" / "packed.zip").exists():  # alone, without the tests above
        test_from_nothing_to_a_registered_model(project)
        test_a_finished_pipeline_travels_by_a_remote(project)
    (project / "data" / "packed.zip").unlink()
    shutil.rmtree(project / ".dvc" / "cache")
    program = "from sg3flow.cli import main; main()"
    done = python(project, "-c", program, "reproduce", "sg3flow-tiny@champion")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "network-snapshot-000001.pkl: equal" in done.stdout
    assert done.stdout.splitlines()[-1] == "equal: every snapshot has the recorded SHA-256"
    assert not (project / "data" / "packed.zip").exists()
    assert dvc(project, "pull").returncode == 0


def test_a_failing_expectation_stops_the_pipeline(project):
    edit(project, "min_class_images: 10", "min_class_images: 100")
    edit(project, "gamma: 0.1", "gamma: 0.2")
    done = dvc(project, "repro")
    assert done.returncode != 0
    assert "Running stage 'validate'" in done.stdout
    assert "Running stage 'train'" not in done.stdout
    assert not json.loads((project / "reports/validation.json").read_text())["success"]


def test_a_misspelled_setting_is_named(project):
    edit(project, "min_class_images: 100", "min_clas_images: 10")
    done = dvc(project, "repro", "validate")
    assert done.returncode != 0
    assert "did you mean 'min_class_images'" in done.stdout + done.stderr
